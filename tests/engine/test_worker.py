"""A worker is two real processes: it says what it does, drains on a signal, and ends when its engine does."""

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baton.engine.config import Role, WorkerConfig
from support import fake_engine_worker
from support.tokenizers import write_tokenizer

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


class Process:
    """One worker process."""

    def __init__(self, config: WorkerConfig, **script: Any) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",  # tests/support holds modules named like libraries
                fake_engine_worker.__file__,
                msgspec.json.encode(config).decode(),
                json.dumps(script),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(Path(config.model).parent)},
        )
        self.url = ""

    def event(self) -> dict[str, Any]:
        """Return the next line of standard output."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the worker ended: {self.process.stderr and self.process.stderr.read().decode()}"
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "listening":
            self.url = f"http://{event['host']}:{event['port']}"
        return event

    def until(self, name: str) -> dict[str, Any]:
        """Read events until one is called `name`."""
        while (event := self.event())["event"] != name:
            pass
        return event

    def open(self, path: str, body: Any = None) -> Any:
        """Send a request; return the open response, or the HTTP error."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            return error

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and standard error."""
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors.decode()

    def close(self) -> None:
        """Make sure that nothing is left."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> WorkerConfig:
    folder = tmp_path_factory.mktemp("w") / "tiny"
    folder.mkdir()
    write_tokenizer(folder)
    return WorkerConfig(model=str(folder), role=Role.PREFILL, drain_grace_s=1.0)


@pytest.fixture
def started(config: WorkerConfig, request: pytest.FixtureRequest) -> Iterator[Process]:
    process = Process(config, **getattr(request, "param", {}))
    yield process
    process.close()


def test_it_says_that_it_listens_loads_and_is_ready(started: Process) -> None:
    assert started.event()["event"] == "listening"
    assert started.event() == {"event": "loading", "stage": "weights", "done": 1, "total": 2}
    assert started.until("ready")["name"] == started.url.removeprefix("http://")
    with started.open("/v1/chat/completions", {**CHAT, "max_tokens": 3}) as response:
        answer = json.loads(response.read())
    assert answer["model"] == "tiny"
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["baton"]["prefill_worker"] == started.url.removeprefix("http://")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_it_without_error(started: Process, number: int) -> None:
    started.until("ready")

    started.process.send_signal(number)

    assert started.end()[0] == 0


@pytest.mark.parametrize("started", [{"is_rank": True}], indirect=True)
def test_it_says_that_it_has_left_its_ranks(started: Process) -> None:
    started.until("ready")

    started.process.send_signal(signal.SIGUSR1)

    assert started.until("left")
    assert started.end()[0] == 0


@pytest.mark.parametrize("started", [{"is_rank": True, "stays_because": "unreadable weights"}], indirect=True)
def test_it_serves_on_if_its_ranks_cannot_do_without_it(started: Process) -> None:
    started.until("ready")

    started.process.send_signal(signal.SIGUSR1)

    assert started.until("stays")["message"] == "unreadable weights"
    while (answer := started.open("/v1/chat/completions", {**CHAT, "max_tokens": 3})).status == 503:
        pass
    assert json.loads(answer.read())["usage"]["completion_tokens"] == 3
    started.process.send_signal(signal.SIGUSR1)
    assert started.until("left")
    assert started.end()[0] == 0


def test_a_signal_while_loading_ends_it_without_error(config: WorkerConfig) -> None:
    worker = Process(config)
    worker.until("listening")

    worker.process.send_signal(signal.SIGTERM)

    assert worker.end()[0] == 0


@pytest.mark.parametrize("started", [{"hold_after": 2}], indirect=True)
def test_draining_finishes_what_runs_and_refuses_the_rest(started: Process) -> None:
    started.until("ready")
    with started.open("/v1/chat/completions", {**CHAT, "max_tokens": 3, "stream": True}) as response:
        response.readline()
        started.process.send_signal(signal.SIGTERM)
        while (refused := started.open("/v1/chat/completions", CHAT)).status != 503:
            pass

        assert json.loads(refused.read())["error"]["code"] == "draining"

        assert b'"error"' in response.read()  # it never went on: the grace ended, and the engine with it
    assert started.end()[0] == 0


@pytest.mark.parametrize("started", [{"hold_after": 2}], indirect=True)
def test_a_second_signal_ends_it_at_once(started: Process) -> None:
    started.until("ready")
    with started.open("/v1/chat/completions", {**CHAT, "stream": True}) as response:
        response.readline()
        started.process.send_signal(signal.SIGTERM)
        while started.open("/ready").status != 503:
            pass
        started.process.send_signal(signal.SIGTERM)

        assert started.end()[0] == 130


@pytest.mark.parametrize("started", [{"die_after": 2}], indirect=True)
def test_the_engines_death_is_told_to_clients_and_ends_the_worker(started: Process) -> None:
    started.until("ready")

    with started.open("/v1/chat/completions", {**CHAT, "stream": True}) as response:
        lines = response.read().decode().strip().split("\n\n")

    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_lost"
    assert "told to die" in started.until("fatal")["message"]
    assert started.end()[0] == 1


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    worker = Process(WorkerConfig(model=str(tmp_path / "none"), role=Role.DECODE))

    assert "tokenizer.json" in worker.until("fatal")["message"]
    assert worker.end()[0] == 1


def test_a_port_in_use_is_named(started: Process, config: WorkerConfig) -> None:
    started.until("listening")
    port = int(started.url.rpartition(":")[2])

    worker = Process(msgspec.structs.replace(config, port=port))

    assert str(port) in worker.until("fatal")["message"]
    assert worker.end()[0] == 1


def test_the_engine_learns_of_the_frontends_death_by_its_input(started: Process) -> None:
    started.until("ready")
    children = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children").read_text().split()
    engine = os.pidfd_open(int(children[0]))

    started.process.kill()

    ended, _, _ = select.select([engine], [], [], 20)
    os.close(engine)
    assert ended

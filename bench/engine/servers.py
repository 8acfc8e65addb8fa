"""Starts workers of both kinds and stops their processes while another is measured. Linux only (`/proc`)."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...cli.children import die_with_parent
from ...cli.free_port import free_ports
from ..processes import process_tree
from .peer import vllm_command, vllm_environment
from .workload import SERVED_NAME

START_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 20.0


class StartError(RuntimeError):
    """A server did not come up; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """One running server."""

    name: str
    url: str
    pid: int


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and everything under it."""
    for each in process_tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)


@contextlib.contextmanager
def running_worker(role: str, model: Path, log: Path, *flags: str) -> Iterator[Server]:
    """Run a worker of ours, `baton prefill` or `baton decode`, with the defaults of a worker alone."""
    command = [sys.executable, "-P", "-m", "baton.cli", role, "--model", str(model), "--port", "0"]
    command += ["--served-model-name", SERVED_NAME]
    with started([*command, *flags], log) as process:
        yield Server(f"baton {role}", told_url(process, log), process.pid)


@contextlib.contextmanager
def running_vllm(venv: Path, model: Path, log: Path) -> Iterator[Server]:
    """Run vLLM's own server."""
    port = free_ports(1)[0]
    with started(vllm_command(venv, model, port), log, vllm_environment(), talks=False) as process:
        server = Server("vllm", f"http://127.0.0.1:{port}", process.pid)
        _wait_until_healthy(server, log)
        yield server


def kept_vllm(venv: Path, model: Path, folder: Path) -> Server:
    """Return the vLLM that an earlier run left in `folder` for a model, or start one and leave it there."""
    note, log = folder / f"{model.name}.json", folder / f"{model.name}.log"
    if note.exists():
        server = msgspec.json.decode(note.read_bytes(), type=Server)
        if is_healthy(server.url):
            return server
    port = free_ports(1)[0]
    with log.open("w") as file:
        process = subprocess.Popen(
            vllm_command(venv, model, port),
            stdout=file,
            stderr=file,
            env=vllm_environment(),
            start_new_session=True,
        )
    server = Server("vllm", f"http://127.0.0.1:{port}", process.pid)
    note.write_bytes(msgspec.json.encode(server))
    _wait_until_healthy(server, log)
    return server


@contextlib.contextmanager
def started(
    command: list[str], log: Path, environment: dict[str, str] | None = None, *, talks: bool = True
) -> Iterator["subprocess.Popen[str]"]:
    """Run a command until the context is left; then it ends, and everything under it.

    talks  its standard output is read through the process, not written to the log
    """
    parent = os.getpid()
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if talks else file,
            stderr=file,
            text=True,
            env=environment,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509  this process has no threads
        )
    try:
        yield process
    finally:
        _end(process)


def told_url(process: "subprocess.Popen[str]", log: Path) -> str:
    """Return the address that a worker of ours tells, once it is ready."""
    assert process.stdout is not None
    url = ""
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "listening":
            url = f"http://{event['host']}:{event['port']}"
        elif event["event"] == "ready":
            return url
        elif event["event"] == "fatal":
            raise StartError(event["message"])
    raise StartError(f"the worker ended:\n{_tail(log)}")


def is_healthy(url: str) -> bool:
    """Tell whether a server answers that it serves."""
    with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
        return True
    return False


def _wait_until_healthy(server: Server, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and _runs(server.pid):
        if is_healthy(server.url):
            return
        time.sleep(0.5)
    raise StartError(f"{server.name} did not start:\n{_tail(log)}")


def _runs(pid: int) -> bool:
    """Tell whether a process has not ended, reaped or not."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _end(process: "subprocess.Popen[str]") -> None:
    tree = process_tree(process.pid)
    signal_tree(process.pid, signal.SIGCONT)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    for each in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])

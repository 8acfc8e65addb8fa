"""`baton up` starts a fleet of real processes, heals it and drains it (the processes hold no model)."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from baton.cli.child_events import Loading
from baton.cli.fleet import FleetPlan
from baton.cli.fleet_messages import Address, ReadinessSeen, ShowFailure
from baton.cli.up import read_readiness, run_fleet

FAKE = (sys.executable, "-P", str(Path(__file__).with_name("fake_process.py")))


class RecordingScreen:
    """Keeps what was shown; a test can wait until something is."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.pids: dict[str, list[int]] = {}
        self.failures: list[ShowFailure] = []
        self.url = ""
        self.curl = ""
        self._news = asyncio.Event()

    async def until(self, what: str, name: str, times: int = 1) -> None:
        while self.shown.count((what, name)) < times:
            self._news.clear()
            await self._news.wait()

    def started(self, name: str, pid: int) -> None:
        self.pids.setdefault(name, []).append(pid)
        self._add("started", name)

    def loading(self, name: str, progress: Loading) -> None:
        self._add("loading", name)

    def listening(self, name: str, address: Address) -> None:
        self._add(f"listening {address.port}", name)

    def ready(self, name: str) -> None:
        self._add("ready", name)

    def line(self, name: str, text: str) -> None:
        self._add(text, name)

    def note(self, text: str) -> None:
        self._add(text, "fleet")

    def serving(self, pairs: str, address: Address, curl: str) -> None:
        self.url, self.curl = address.url, curl
        self._add(pairs, "fleet")

    def failure(self, failure: ShowFailure) -> None:
        self.failures.append(failure)
        self._add("failure", failure.name)

    def close(self) -> None:
        self._add("closed", "fleet")

    def _add(self, what: str, name: str) -> None:
        self.shown.append((what, name))
        self._news.set()


def plan(*worker_flags: str) -> FleetPlan:
    return FleetPlan(
        model="m",
        served_model_name="m",
        host="127.0.0.1",
        port=0,
        prefill=1,
        decode=1,
        worker_flags=worker_flags,
        launcher=FAKE,
    )


@asynccontextmanager
async def running_fleet(folder: Path) -> AsyncIterator[tuple[RecordingScreen, asyncio.Task[int]]]:
    """A serving fleet; drained at the end unless the test did that."""
    screen = RecordingScreen()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        fleet = tasks.create_task(run_fleet(plan(), screen, folder, drain_s=5.0))
        await screen.until("1 prefill-decode pair has shaken hands", "fleet")
        yield screen, fleet
        if not fleet.done():
            os.kill(os.getpid(), signal.SIGTERM)


async def test_a_fleet_serves_and_drains_on_an_interrupt(tmp_path: Path) -> None:
    async with running_fleet(tmp_path) as (screen, fleet):
        assert screen.url.startswith("http://127.0.0.1:")
        assert screen.url in screen.curl
        assert ("decode-0 says hello", "decode-0") in screen.shown

        os.kill(os.getpid(), signal.SIGINT)

        assert await fleet == 0
    assert screen.shown[-1] == ("closed", "fleet")


async def test_a_killed_worker_is_back_on_its_address(tmp_path: Path) -> None:
    async with running_fleet(tmp_path) as (screen, _):
        (address,) = [
            what for what, name in screen.shown if what.startswith("listening") and name == "decode-0"
        ]

        os.kill(screen.pids["decode-0"][0], signal.SIGKILL)

        await screen.until(address, "decode-0", times=2)
        assert len(screen.pids["decode-0"]) == 2
        assert len(screen.pids["prefill-0"]) == 1


async def test_a_worker_that_dies_at_start_is_named_with_its_last_lines(tmp_path: Path) -> None:
    screen = RecordingScreen()

    async with asyncio.timeout(30):
        status = await run_fleet(plan("--set", "fault=decode-0"), screen, tmp_path, drain_s=5.0)

    assert status == 1
    (failure,) = screen.failures
    assert (failure.name, failure.reason) == ("decode-0", "this one was told to fail")
    assert failure.last_lines == ("decode-0 says hello",)


@pytest.mark.parametrize(
    ("status", "body", "seen"),
    [
        (200, b'{"ready":true,"complete":true,"workers":[],"unshaken":[]}', ReadinessSeen(ready=True)),
        (200, b"", ReadinessSeen(ready=True)),
        (503, b"<html>", ReadinessSeen(ready=False)),
        (
            200,
            json.dumps(
                {
                    "complete": False,
                    "workers": [
                        {"name": "prefill-0", "state": "out", "reason": "loading"},
                        {"name": "decode-0", "state": "ready", "reason": None},
                    ],
                    "unshaken": [["prefill-1", "decode-0"]],
                }
            ).encode(),
            ReadinessSeen(
                ready=False, reason="prefill-0 loading, prefill-1 and decode-0 have not shaken hands"
            ),
        ),
    ],
)
def test_the_fleet_serves_once_it_is_complete(status: int, body: bytes, seen: ReadinessSeen) -> None:
    assert read_readiness(status, body) == seen

"""A child process is heard line by line, its end is seen, and nothing it started outlives it."""

import asyncio
import os
import select
import signal
import sys
from pathlib import Path

import pytest

from baton.cli.child_events import Listening, Ready
from baton.cli.children import ChildProcess
from baton.cli.fleet_messages import Event, Exited, Printed, Said

FAKE = [sys.executable, "-P", str(Path(__file__).with_name("fake_process.py")), "decode", "--name", "d"]


class Inbox:
    """Collects what a child reports and lets a test wait for an event of a kind."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until_ready(self) -> None:
        while Said(name="d", event=Ready()) not in self.events:
            self._news.clear()
            await self._news.wait()


async def run_to_end(arguments: list[str]) -> list[Event]:
    inbox = Inbox()
    pids: list[int] = []
    await ChildProcess("d", arguments, inbox.put).run(pids.append)
    return inbox.events


async def test_lines_events_and_the_end_are_reported() -> None:
    code = "import sys; print('one'); print('{\"event\":\"ready\"}'); print('rest', end=''); sys.exit(4)"

    events = await run_to_end([sys.executable, "-c", code])

    assert events == [
        Printed(name="d", line="one"),
        Said(name="d", event=Ready()),
        Printed(name="d", line="rest"),
        Exited(name="d", status=4),
    ]


async def test_a_line_longer_than_any_buffer_is_one_line() -> None:
    events = await run_to_end([sys.executable, "-c", "print('x' * 1_000_000)"])

    assert events[0] == Printed(name="d", line="x" * 1_000_000)


async def test_a_program_that_cannot_start_has_ended() -> None:
    events = await run_to_end(["/nonexistent/program"])

    assert events[-1] == Exited(name="d", status=127)
    assert "cannot start /nonexistent/program" in str(events[0])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
async def test_a_signal_reaches_the_child(number: signal.Signals, status: int) -> None:
    inbox = Inbox()
    child = ChildProcess("d", FAKE, inbox.put)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child.run(lambda _: None))
        await inbox.until_ready()
        child.send(number)

    assert inbox.events[-1] == Exited(name="d", status=status)
    assert any(isinstance(event, Said) and isinstance(event.event, Listening) for event in inbox.events)


async def test_what_a_killed_child_had_started_ends_with_it(tmp_path: Path) -> None:
    inbox = Inbox()
    note = tmp_path / "pid"
    child = ChildProcess("d", [*FAKE, "--leave-grandchild", str(note)], inbox.put)
    pids: list[int] = []

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child.run(pids.append))
        await inbox.until_ready()
        grandchild = os.pidfd_open(int(note.read_text()))
        os.kill(pids[0], signal.SIGKILL)

    assert inbox.events[-1] == Exited(name="d", status=-9)
    assert await asyncio.to_thread(ends, grandchild)


async def test_cancelling_ends_the_child() -> None:
    inbox = Inbox()
    pids: list[int] = []

    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(ChildProcess("d", FAKE, inbox.put).run(pids.append))
        await inbox.until_ready()
        child = os.pidfd_open(pids[0])
        run.cancel()

    assert await asyncio.to_thread(ends, child)


def ends(descriptor: int) -> bool:
    """Whether the process behind a pidfd ends within ten seconds."""
    readable, _, _ = select.select([descriptor], [], [], 10)
    os.close(descriptor)
    return bool(readable)

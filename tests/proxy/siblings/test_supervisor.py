"""One process that cannot start again is left to itself: its siblings serve on."""

import asyncio
import signal
from collections import deque
from pathlib import Path
from typing import Any, cast

import msgspec

from baton.proxy.config import ProxyConfig, WorkerAddress
from baton.proxy.routing.fleet import Role
from baton.proxy.siblings.supervisor import PAUSE_FIRST_S, PAUSE_LONGEST_S, Post, Supervisor

CONFIG = ProxyConfig(workers=(WorkerAddress(url="http://h:1", role=Role.DECODE),), processes=2, port=0)
LISTENING = {"event": "listening", "host": "h", "port": 1}
READY = {"event": "ready"}
FATAL = {"event": "fatal", "message": "policy.yaml: no policy"}


class Scripted:
    """A process that says its lines and ends, or stays until it is told to drain."""

    def __init__(self, *events: dict[str, Any], stays: bool = False) -> None:
        self.returncode: int | None = None
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
        self.signals: list[int] = []
        if not stays:
            self._end(1)

    def _end(self, status: int) -> None:
        self.returncode = status
        self.stdout.feed_eof()

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self._end(0)

    async def wait(self) -> int:
        assert self.returncode is not None
        return self.returncode


class Theatre(Supervisor):
    """Starts what the script says."""

    def __init__(self, folder: Path, scripts: tuple[list[Scripted], list[Scripted]]) -> None:
        self.reports: list[str] = []
        super().__init__(CONFIG, folder, lambda event, **_: self.reports.append(event))
        self.scripts = [deque(script) for script in scripts]
        self.started = asyncio.Event()

    async def _start(self, index: int, file: Path) -> Any:
        script = self.scripts[index]
        process = script.popleft()
        self._running[index] = cast(Any, process)
        if not any(self.scripts):
            self.started.set()
        return process


async def test_a_process_that_cannot_start_again_does_not_end_its_siblings(tmp_path: Path) -> None:
    healthy, last = Scripted(LISTENING, READY, stays=True), Scripted(LISTENING, READY, stays=True)
    troubled = [Scripted(LISTENING, READY), Scripted(FATAL), last]
    theatre = Theatre(tmp_path, (troubled, [healthy]))
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(theatre.run())
        await theatre.started.wait()
        assert (healthy.signals, theatre.failure) == ([], None)
        theatre.stop()

    assert healthy.signals == last.signals == [signal.SIGTERM]
    assert theatre.reports == ["listening", "ready"]


async def test_a_process_that_never_could_start_ends_all_and_says_why(tmp_path: Path) -> None:
    theatre = Theatre(tmp_path, ([Scripted(FATAL)], [Scripted(LISTENING, stays=True)]))
    async with asyncio.timeout(60):
        await theatre.run()

    assert theatre.failure == FATAL["message"]


def test_a_process_that_was_ready_once_and_keeps_failing_is_started_ever_more_slowly() -> None:
    post = Post(listened=True, ready=True)
    pauses_s = []
    for _ in range(10):
        pauses_s.append(post.next_pause_s())
        post.starts()

    assert pauses_s[:3] == [PAUSE_FIRST_S, PAUSE_FIRST_S * 2, PAUSE_FIRST_S * 4]
    assert pauses_s[-1] == PAUSE_LONGEST_S

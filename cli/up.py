"""`baton up`: a proxy and its workers on one host. The thin shell around `Supervisor`.

It starts processes, asks the proxy whether it is ready, reads the clock and the operator's signals; what
follows from all that is decided in `supervisor.py`.
"""

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

import aiohttp
import msgspec
import yaml

from .children import ChildProcess
from .fleet import POLICY, FleetPlan, demo_request, pairs_text, proxy_command, proxy_settings, worker_command
from .fleet_messages import (
    Address,
    Command,
    Event,
    Finish,
    Interrupted,
    ReadinessSeen,
    Send,
    ShowFailure,
    ShowLine,
    ShowListening,
    ShowLoading,
    ShowNote,
    ShowReady,
    ShowServing,
    Spawn,
    Ticked,
    WatchReadiness,
)
from .screen import Screen
from .supervisor import Supervisor

READINESS_INTERVAL_S = 0.1
EXIT_GRACE_S = 10.0
"""What the fleet waits for beyond the longest drain of one child."""


def up(plan: FleetPlan, screen: Screen, *, drain_s: float) -> int:
    """Run the fleet until it is interrupted or cannot start; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="baton-") as folder:
        return asyncio.run(run_fleet(plan, screen, Path(folder), drain_s=drain_s))


async def run_fleet(plan: FleetPlan, screen: Screen, folder: Path, *, drain_s: float) -> int:
    """Do the work of `up`; the proxy's settings and its policy are written into `folder`."""
    supervisor = Supervisor(plan.workers, drain_s=drain_s + EXIT_GRACE_S)
    async with asyncio.TaskGroup() as tasks:
        shell = _Shell(plan, screen, tasks, folder)
        status = await shell.follow(supervisor)
        shell.close()
    screen.close()
    return status


class _Shell:
    """Carries out a supervisor's commands and brings it events."""

    def __init__(self, plan: FleetPlan, screen: Screen, tasks: asyncio.TaskGroup, folder: Path) -> None:
        self._plan = plan
        self._screen = screen
        self._tasks = tasks
        self._proxy_file = folder / "proxy.yaml"
        self._policy_file = folder / "policy.yaml"
        self._inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._processes: dict[str, ChildProcess] = {}
        self._watch: asyncio.Task[None] | None = None

    async def follow(self, supervisor: Supervisor) -> int:
        """Feed the supervisor until it says `Finish`; return its status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._inbox.put_nowait, Interrupted())
        commands = supervisor.start(time.monotonic())
        while True:
            for command in commands:
                if isinstance(command, Finish):
                    return command.status
                self._perform(command)
            event = await self._next_event(supervisor.wake_at)
            commands = supervisor.handle(event, time.monotonic())

    def close(self) -> None:
        """End what may still be watching."""
        if self._watch is not None:
            self._watch.cancel()

    async def _next_event(self, wake_at: float | None) -> Event:
        timeout_s = None if wake_at is None else max(wake_at - time.monotonic(), 0.0)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._inbox.get()
        except TimeoutError:
            return Ticked()

    def _perform(self, command: Command) -> None:
        match command:
            case Spawn():
                self._spawn(command)
            case Send():
                self._processes[command.name].send(command.signal)
            case WatchReadiness():
                self._watch = self._tasks.create_task(
                    self._watch_readiness(command.address), name="readiness"
                )
            case _:
                self._show(command)

    def _show(self, command: Command) -> None:
        match command:
            case ShowLoading():
                self._screen.loading(command.name, command.progress)
            case ShowListening():
                self._screen.listening(command.name, command.address)
            case ShowReady():
                self._screen.ready(command.name)
            case ShowLine():
                self._screen.line(command.name, command.line)
            case ShowNote():
                self._screen.note(command.text)
            case ShowFailure():
                self._screen.failure(command)
            case ShowServing():
                curl = demo_request(self._plan, command.address)
                self._screen.serving(pairs_text(self._plan), command.address, curl)
            case _:
                raise AssertionError(f"not a command to show: {command}")

    def _spawn(self, command: Spawn) -> None:
        name = command.name
        if name in self._plan.workers:
            arguments = worker_command(self._plan, name, command.address, os.getpid())
        else:
            arguments = proxy_command(self._plan, command.address, str(self._proxy_file), os.getpid())
        process = ChildProcess(name, arguments, self._inbox.put_nowait)
        self._processes[name] = process
        self._tasks.create_task(self._run(process, command), name=name)

    async def _run(self, process: ChildProcess, command: Spawn) -> None:
        if command.workers:
            settings = proxy_settings(self._plan, command.workers) | {"policy": str(self._policy_file)}
            for file, content in ((self._policy_file, POLICY), (self._proxy_file, settings)):
                await asyncio.to_thread(file.write_text, yaml.safe_dump(content))
        await process.run(lambda pid: self._screen.started(command.name, pid))

    async def _watch_readiness(self, address: Address) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                seen = await _readiness(session, address)
                self._inbox.put_nowait(seen)
                if seen.ready:
                    return
                await asyncio.sleep(READINESS_INTERVAL_S)


async def _readiness(session: aiohttp.ClientSession, address: Address) -> ReadinessSeen:
    try:
        async with session.get(f"{address.url}/ready", timeout=aiohttp.ClientTimeout(5)) as answer:
            return read_readiness(answer.status, await answer.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        return ReadinessSeen(ready=False, reason=f"the proxy does not answer: {error or 'timeout'}")


class _Standing(msgspec.Struct, frozen=True):
    name: str
    state: str
    reason: str | None = None


class _Report(msgspec.Struct, frozen=True):
    complete: bool = True
    workers: list[_Standing] = []
    unshaken: list[tuple[str, str]] = []


def read_readiness(status: int, body: bytes) -> ReadinessSeen:
    """Read `/ready`: the fleet serves once every worker is there and every pair has shaken hands."""
    try:
        report = msgspec.json.decode(body, type=_Report)
    except msgspec.DecodeError:
        return ReadinessSeen(ready=status == 200)
    if status == 200 and report.complete:
        return ReadinessSeen(ready=True)
    waiting = [f"{each.name} {each.reason or each.state}" for each in report.workers if each.state != "ready"]
    waiting += [f"{prefill} and {decode} have not shaken hands" for prefill, decode in report.unshaken]
    return ReadinessSeen(ready=False, reason=", ".join(waiting))

"""`baton up`: a proxy and its workers on one host. The thin shell around `Supervisor`.

It starts processes, asks the proxy whether it is ready, reads the clock and the operator's signals; what
follows from all that is decided in `supervisor.py`.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path

import aiohttp
import msgspec
import yaml

from .children import ChildProcess
from .fleet import (
    POLICY,
    FleetPlan,
    demo_request,
    pairs_text,
    proxy_command,
    proxy_settings,
    worker_command,
    worker_entry,
)
from .fleet_control import FleetControl, FleetControlError
from .fleet_messages import (
    Address,
    Answer,
    ChildKind,
    Command,
    Event,
    Finish,
    Interrupted,
    List,
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
    Unlist,
    Unlisted,
    WatchReadiness,
)
from .proxy_admin import ProxyAdmin
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
    supervisor = Supervisor(plan.workers, drain_s=drain_s + EXIT_GRACE_S, groups=plan.groups)
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
        self._watching: list[asyncio.Task[None]] = []
        self._control = FleetControl(self._inbox.put_nowait)
        self._own_token_file = folder / "admin_token"
        self._token = secrets.token_hex(16)
        self._admin = ProxyAdmin(plan.admin_token_file or self._own_token_file)
        self._proxy: Address | None = None

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
        for task in self._watching:
            task.cancel()

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
                self._begin(self._watch_readiness(command.address), "readiness")
            case List():
                self._begin(self._list(command), f"list {command.name}")
            case Unlist():
                self._begin(self._unlist(command), f"unlist {command.name}")
            case Answer():
                self._screen.note(command.text)
                self._control.answer(command)
            case _:
                self._show(command)

    def _begin(self, work: Coroutine[None, None, None], name: str) -> None:
        self._watching = [task for task in self._watching if not task.done()]
        self._watching.append(self._tasks.create_task(work, name=name))

    def _show(self, command: Command) -> None:
        match command:
            case ShowLoading():
                self._screen.loading(command.name, command.progress)
            case ShowListening():
                if command.name == ChildKind.PROXY.value:
                    self._proxy = command.address
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
                self._begin(self._serve_operators(command.address), "operators")
            case _:
                raise AssertionError(f"not a command to show: {command}")

    def _spawn(self, command: Spawn) -> None:
        name = command.name
        if name == ChildKind.PROXY.value:
            arguments = proxy_command(self._plan, command.address, str(self._proxy_file), os.getpid())
        else:
            arguments = worker_command(
                self._plan, name, command.address, os.getpid(), place=command.place, join=command.join
            )
        process = ChildProcess(name, arguments, self._inbox.put_nowait)
        self._processes[name] = process
        self._tasks.create_task(self._run(process, command), name=name)

    async def _run(self, process: ChildProcess, command: Spawn) -> None:
        if command.workers:
            # In a folder of this user alone.
            await asyncio.to_thread(self._own_token_file.write_text, self._token)
            settings = proxy_settings(command.workers) | {
                "policy": str(self._policy_file),
                "admin_token_file": str(self._own_token_file),
            }
            for file, content in ((self._policy_file, POLICY), (self._proxy_file, settings)):
                await asyncio.to_thread(file.write_text, yaml.safe_dump(content))
        await process.run(lambda pid: self._screen.started(command.name, pid))

    async def _serve_operators(self, address: Address) -> None:
        """Say that the fleet serves once it can be asked for changes, and hear them until cancelled."""
        async with contextlib.AsyncExitStack() as open_parts:
            try:
                await open_parts.enter_async_context(self._control.serving(address.port))
            except (FleetControlError, OSError) as error:
                self._screen.note(f"`baton ranks` will not reach this fleet: {error}")
            curl = demo_request(self._plan, address)
            self._screen.serving(pairs_text(self._plan), address, curl)
            await asyncio.get_running_loop().create_future()

    async def _list(self, command: List) -> None:
        assert self._proxy is not None
        problem = await self._admin.add(self._proxy, worker_entry(command.name, command.address))
        if problem is not None:
            self._screen.note(f"{command.name} gets no requests: {problem}")

    async def _unlist(self, command: Unlist) -> None:
        assert self._proxy is not None
        problem = await self._admin.remove(self._proxy, command.name)
        self._inbox.put_nowait(Unlisted(name=command.name, problem=problem))

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

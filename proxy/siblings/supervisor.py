"""Starts the processes of one proxy, starts one again that ends, and speaks for all of them on stdout.

A socket that is bound and never listens holds the port, so that all processes can share one that was free.
Each process gets a pipe as its standard input: it drains when that ends, so none outlives this one.
"""

import asyncio
import logging
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..config import ProxyConfig

logger = logging.getLogger(__name__)

PAUSE_FIRST_S = 0.25
PAUSE_LONGEST_S = 30.0
MODULE = "baton.proxy.siblings"


def hold_port(host: str, port: int) -> socket.socket:
    """Bind a port that others may listen on beside it; 0: a free one. Raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family, kind, protocol)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(address)
    return held


@dataclass(slots=True)
class Post:
    """One place among the processes, and what those that had it one after the other said. No I/O."""

    listened: bool = False
    """One of them did."""
    ready: bool = False
    """The present one was; so for the next."""
    fault: str | None = None
    """What it cannot go on for."""
    pause_s: float = PAUSE_FIRST_S

    def starts(self) -> None:
        """Another process has it."""
        self.ready, self.fault = False, None

    def next_pause_s(self) -> float | None:
        """Return how long to wait for the next start; None: there never was one that listened."""
        if not self.listened:
            return None
        self.pause_s = PAUSE_FIRST_S if self.ready else min(self.pause_s * 2, PAUSE_LONGEST_S)
        return self.pause_s


class Supervisor:
    """The processes of one proxy."""

    def __init__(self, config: ProxyConfig, folder: Path, report: Callable[..., None]) -> None:
        """`report` takes an event's name and its fields."""
        self._config = config
        self._folder = folder
        self._report = report
        self._running: dict[int, Process] = {}
        self._listening: set[int] = set()
        self._ready: set[int] = set()
        self._stopping = asyncio.Event()
        self.failure: str | None = None

    def stop(self) -> None:
        """Have all drain."""
        self._stopping.set()
        for process in self._running.values():
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)

    async def run(self) -> None:
        """Run until stopped, or until one cannot be started."""
        with hold_port(self._config.host, self._config.port) as held:
            config = msgspec.structs.replace(self._config, port=held.getsockname()[1])
            file = self._folder / "config.json"
            await asyncio.to_thread(file.write_bytes, msgspec.json.encode(config))
            async with asyncio.TaskGroup() as tasks:
                for index in range(config.processes):
                    tasks.create_task(self._keep(index, file), name=f"process {index}")

    async def _keep(self, index: int, file: Path) -> None:
        post = Post()
        while not self._stopping.is_set():
            post.starts()
            process = await self._start(index, file)
            await self._read(index, process, post)
            status = await process.wait()
            if self._stopping.is_set():
                return
            fault = post.fault or f"process {index} ended with status {status}"
            pause_s = post.next_pause_s()
            if pause_s is None:
                self._fail(fault)
                return
            logger.warning("process %d: %s; again in %g s", index, fault, pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _start(self, index: int, file: Path) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", MODULE, "--config", str(file)),
            *("--index", str(index), "--folder", str(self._folder)),
            stdin=PIPE,
            stdout=PIPE,
        )
        self._running[index] = process
        if self._stopping.is_set():
            process.send_signal(signal.SIGTERM)
        return process

    async def _read(self, index: int, process: Process, post: Post) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            event: dict[str, Any] = msgspec.json.decode(line)
            match event.pop("event"):
                case "listening":
                    post.listened = True
                    self._arrive(index, self._listening, "listening", event)
                case "ready":
                    post.ready = True
                    self._arrive(index, self._ready, "ready", event)
                case "fatal":
                    post.fault = event["message"]  # then it ends

    def _arrive(self, index: int, there: set[int], event: str, fields: dict[str, Any]) -> None:
        """Report once, when the last of all processes is there for the first time."""
        complete = len(there) == self._config.processes
        there.add(index)
        if not complete and len(there) == self._config.processes:
            self._report(event, **fields)

    def _fail(self, message: str) -> None:
        self.failure = self.failure or message
        self.stop()


async def supervise(config: ProxyConfig, report: Callable[..., None]) -> str | None:
    """Run all processes until SIGTERM or SIGINT; return what kept them from starting."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="baton-proxy-") as folder:
        supervisor = Supervisor(config, Path(folder), report)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        try:
            await supervisor.run()
        except OSError as error:
            return f"cannot listen on {config.host}:{config.port}: {error.strerror}"
    return supervisor.failure

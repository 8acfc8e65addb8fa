"""Child processes: started in a group of their own, read line by line, reaped; no decisions.

A child dies with its parent whatever happens: it asks the kernel for that itself (`die_with_parent`). When it
ends, whatever it left behind in its process group is killed, so that a worker's engine never outlives it.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable

from .child_events import parse_line
from .fleet_messages import Event, Exited, Printed, Said

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_CHUNK_BYTES = 64 * 1024


class ChildProcess:
    """One process from start to end; reports what it says and how it ends."""

    def __init__(self, name: str, arguments: list[str], report: Callable[[Event], None]) -> None:
        self._name = name
        self._arguments = arguments
        self._report = report
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, started: Callable[[int], None]) -> None:
        """Start the process, call `started` with its id, and report until it has ended."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self._report(
                Printed(name=self._name, line=f"cannot start {self._arguments[0]}: {error.strerror}")
            )
            self._report(Exited(name=self._name, status=127))
            return
        self._process = process
        started(process.pid)
        try:
            await self._follow(process)
        finally:
            self.send(signal.SIGKILL)
            status = await process.wait()
        self._report(Exited(name=self._name, status=status))

    def send(self, signal_number: signal.Signals) -> None:
        """Signal the process, or its whole group for SIGKILL; one that has ended is no error."""
        if self._process is None:
            return
        try:
            if signal_number is signal.SIGKILL:
                os.killpg(self._process.pid, signal_number)
            else:
                self._process.send_signal(signal_number)
        except ProcessLookupError:
            return

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(process.stdout), name=f"{self._name} stdout")
            tasks.create_task(self._read(process.stderr), name=f"{self._name} stderr")
            # A grandchild may hold the pipes open: the end of the process, not of its pipes, is what counts.
            await _ended(process.pid)
            self.send(signal.SIGKILL)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, line: bytes) -> None:
        event = parse_line(line)
        if event is not None:
            self._report(Said(name=self._name, event=event))
        elif text := line.decode(errors="replace").rstrip():
            self._report(Printed(name=self._name, line=text))


async def _ended(pid: int) -> None:
    """Return once process `pid`, a child of ours, has ended, whether or not it was reaped yet."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; exit at once if that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(f"the process that started this one ({parent_pid}) has ended")

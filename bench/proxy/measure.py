"""What a router's processes cost: CPU time, instructions where the machine counts them, memory."""

import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..processes import cpu_ns, process_tree


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of a router, in bytes, all its processes together."""

    resident_bytes: int
    peak_bytes: int


def memory_of(pids: list[int]) -> Memory:
    """Return what is resident now, and the most that was."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return Memory(
        resident_bytes=sum(_kib(status, "VmRSS") for status in statuses) * 1024,
        peak_bytes=sum(_kib(status, "VmHWM") for status in statuses) * 1024,
    )


def _kib(status: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) if found else 0


def counts_instructions() -> bool:
    """Whether `perf stat` is here and the machine lets it count instructions."""
    perf = shutil.which("perf")
    if perf is None:
        return False
    outcome = subprocess.run(
        [perf, "stat", "-x,", "-e", "instructions", "true"], capture_output=True, text=True, check=False
    )
    return parse_instructions(outcome.stderr) is not None


def parse_instructions(text: str) -> int | None:
    """Return the count in the output of `perf stat -x, -e instructions`, None where it was not counted."""
    counts = [line.split(",")[0] for line in text.splitlines() if "instructions" in line]
    return int(counts[0]) if counts and counts[0].isdecimal() else None


class InstructionCount:
    """Counts the instructions of processes that run already, between `start` and `stop`."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Attach."""
        pids = ",".join(map(str, self._pids))
        self._process = await asyncio.create_subprocess_exec(
            "perf", "stat", "-x,", "-e", "instructions", "-p", pids, stderr=asyncio.subprocess.PIPE
        )
        await asyncio.sleep(0.2)  # perf does not say when it has attached

    async def stop(self) -> int | None:
        """Detach; return the count."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        _, err = await self._process.communicate()
        return parse_instructions(err.decode())


class Stopwatch(msgspec.Struct):
    """CPU time of some processes between two moments."""

    pids: list[int]
    cpu_s: float = 0.0


@contextlib.contextmanager
def cpu_of(pid: int | None) -> Iterator[Stopwatch]:
    """Measure the CPU time that the processes under `pid` use within the context."""
    watch = Stopwatch([] if pid is None else process_tree(pid))
    before = cpu_ns(watch.pids)
    try:
        yield watch
    finally:
        watch.cpu_s = (cpu_ns(watch.pids) - before) / 1e9

"""The engine as a child process of the frontend: start it, forward what it prints, end it.

The child's standard input is a pipe that nothing is written to: it closes when the frontend dies, however
that happens, so the child can end too. It runs in a session of its own, because Ctrl-C in a terminal
must reach the frontend alone, which drains before it ends the engine.

Its compute threads sleep while they wait for each other. By default they spin, and where anything else wants
a core, a thread that spins keeps it from the very thread it waits for (`docs/engine-speed.md`). And its
memory comes in huge pages where the system has them for those who ask: a decode step on a CPU reads all
weights, and looking up where each 4 KiB of them lie takes as long as reading them.
"""

import asyncio
import os
import sys
from collections import deque
from pathlib import Path

SURROUNDINGS = {"OMP_WAIT_POLICY": "passive", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""What libraries of the engine process read; whoever starts the frontend may have set them otherwise"""
KEPT_LINES = 20
MAX_LINE_BYTES = 1 << 20


def engine_command(config_path: Path, ipc_path: Path) -> list[str]:
    """Return the command line of the engine process."""
    module = ["-m", "baton.engine.process"]
    return [sys.executable, *module, "--config", str(config_path), "--ipc", str(ipc_path)]


class EngineProcess:
    """One started engine process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._last_lines: deque[str] = deque(maxlen=KEPT_LINES)

    @classmethod
    async def start(cls, command: list[str]) -> "EngineProcess":
        """Start the process; its output is read by `run`."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env={**SURROUNDINGS, **os.environ},
            limit=MAX_LINE_BYTES,
        )
        return cls(process)

    async def run(self) -> str:
        """Forward the output to standard error until the process ends; return how it ended."""
        assert self._process.stdout is not None
        while line := await self._read_line(self._process.stdout):
            text = line.decode(errors="replace")
            sys.stderr.write(text)
            self._last_lines.append(text)
        code = await self._process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    def last_lines(self) -> str:
        """Return the end of what the process printed."""
        return "".join(self._last_lines).strip()

    def terminate(self) -> None:
        """Ask the process to end, unless it has."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process now, unless it has ended."""
        if self._process.returncode is None:
            self._process.kill()

    async def _read_line(self, output: asyncio.StreamReader) -> bytes:
        try:
            return await output.readline()
        except ValueError:  # longer than the limit: the reader has dropped it
            return b"(a line too long to forward)\n"

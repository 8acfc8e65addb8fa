"""The two programs in C, mock workers and load: compiled when their source is newer, and started."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec

from .cores import Cores
from .workloads import Workload

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "bench-proxy"
WARM_UP_S = 0.3
RAMP_MS = 4000
"""Over how long the connections of the open-streams workload are made."""


class BenchError(RuntimeError):
    """The bench cannot run; the message says what is missing."""


class Ports(msgspec.Struct, frozen=True):
    """Where the mock workers listen."""

    prefill: list[int]
    decode: list[int]


class LoadReport(msgspec.Struct, frozen=True):
    """What the load generator saw. Times are (p50, p99)."""

    requests: int
    bad: int
    events: int
    seconds: float
    ttft_us: tuple[int, int]
    latency_us: tuple[int, int]
    delay_us: tuple[int, int]
    """From a worker's send of an event to its arrival at the client."""
    statuses: dict[str, int]


def compile_program(name: str, build: Path = BUILD) -> Path:
    """Return the program made from `name`.c. Raises `BenchError` when there is no C compiler, or it fails."""
    program, source = build / name, HERE / f"{name}.c"
    newest = max(path.stat().st_mtime for path in (source, HERE / "common.h"))
    if program.exists() and program.stat().st_mtime > newest:
        return program
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("no C compiler: `cc` is not on PATH, and the mock workers and the load are in C")
    build.mkdir(parents=True, exist_ok=True)
    outcome = subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if outcome.returncode:
        raise BenchError(f"{source.name} does not compile:\n{outcome.stderr}")
    return program


class MockFleet:
    """Compiled mock workers that are running."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports

    async def follow(self, workload: Workload) -> None:
        """Have every decode worker stream as `workload` wants it."""
        await self._plan(chunks=str(workload.chunks), interval_us=str(workload.interval_us))

    async def end_streams(self) -> None:
        """Have spaced streams end with their next event."""
        await self._plan(chunks="1")

    async def _plan(self, **plan: str) -> None:
        url = f"http://127.0.0.1:{self.ports.decode[0]}/mock/plan"
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await session.post(url, params=plan)


@contextlib.asynccontextmanager
async def running_mock_fleet(prefills: int, decodes: int, cores: Cores) -> AsyncIterator[MockFleet]:
    """Run mock workers on the cores kept for them."""
    process = await asyncio.create_subprocess_exec(
        *cores.pinned(cores.load, compile_program("mock_worker"), str(prefills), str(decodes)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield MockFleet(msgspec.json.decode(await process.stdout.readline(), type=Ports))
    finally:
        process.stdin.close()  # the mock ends with its input
        await process.wait()


class Load:
    """One run of the load generator against one port."""

    def __init__(self, workload: Workload, port: int, cores: Cores, build: Path = BUILD) -> None:
        self._workload = workload
        self._port = port
        self._cores = cores
        self._build = build
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, seconds: float) -> None:
        """Begin; the load goes on for `seconds` and until the last answer has ended."""
        workload, program = self._workload, compile_program("load", self._build)
        body = self._build / f"{workload.name}.json"
        body.write_bytes(workload.body())
        flags = ["--once", "--ramp-ms", str(RAMP_MS)] if workload.once else []
        parts = [str(self._port), workload.path, str(body), str(workload.connections), str(seconds), *flags]
        self._process = await asyncio.create_subprocess_exec(
            *self._cores.pinned(self._cores.load, program, *parts), stdout=asyncio.subprocess.PIPE
        )

    async def until_open(self) -> None:
        """Wait until every connection of an open-streams workload has had its first byte, or has failed."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            await self._process.stdout.readuntil(b"open\n")
        except asyncio.IncompleteReadError:
            raise BenchError("the load generator gave up before all streams were open") from None

    async def report(self) -> LoadReport:
        """Wait for the end. Raises `BenchError` when the load generator failed."""
        assert self._process is not None
        out, _ = await self._process.communicate()
        if self._process.returncode:
            raise BenchError(f"the load generator ended with status {self._process.returncode}")
        return msgspec.json.decode(out.splitlines()[-1], type=LoadReport)

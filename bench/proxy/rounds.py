"""One round: every workload on every system, one after another; the order of systems turns every round."""

import asyncio
from collections.abc import Sequence

import msgspec

from .compiled import WARM_UP_S, Load, LoadReport, MockFleet
from .cores import Cores
from .measure import InstructionCount, cpu_of, memory_of
from .systems import RunningSystem
from .workloads import Unit, Workload


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one workload on one system."""

    round: int
    system: str
    workload: Workload
    load: LoadReport
    cpu_s: float
    instructions: int | None
    resident_bytes: int | None
    """At the end of the run; while all streams are open where that is what the workload is for."""

    @property
    def cpu_us_per_request(self) -> float:
        """CPU time of the router per answered request."""
        return self.cpu_s * 1e6 / self.load.requests if self.load.requests else float("nan")

    @property
    def cpu_us_per_chunk(self) -> float:
        """CPU time of the router per relayed chunk."""
        return self.cpu_s * 1e6 / self.load.events if self.load.events else float("nan")

    @property
    def cpu_us_per_unit(self) -> float:
        """What the target compares."""
        return self.cpu_us_per_chunk if self.workload.unit is Unit.CHUNK else self.cpu_us_per_request


class Runner:
    """Measures workloads on systems that are up."""

    def __init__(self, fleet: MockFleet, cores: Cores, *, seconds: float, instructions: bool) -> None:
        self._fleet = fleet
        self._cores = cores
        self._seconds = seconds
        self._instructions = instructions

    async def round(
        self, number: int, workloads: Sequence[Workload], systems: Sequence[RunningSystem]
    ) -> list[Sample]:
        """Measure everything once."""
        turn = number % len(systems)
        samples = []
        for workload in workloads:
            await self._fleet.follow(workload)
            for running in (*systems[turn:], *systems[:turn]):
                sample = await self._measure(number, workload, running)
                samples.append(sample)
                print(_progress(sample), flush=True)
        return samples

    async def _measure(self, number: int, workload: Workload, running: RunningSystem) -> Sample:
        if workload.once:
            return await self._measure_open(number, workload, running)
        warm_up = Load(workload, running.port, self._cores)
        await warm_up.start(WARM_UP_S)
        await warm_up.report()
        counting = None
        if self._instructions and running.pid is not None:
            counting = InstructionCount([running.pid])
            await counting.start()
        with cpu_of(running.pid) as cpu:
            load = Load(workload, running.port, self._cores)
            await load.start(self._seconds)
            report = await load.report()
        return Sample(
            round=number,
            system=running.system.name,
            workload=workload,
            load=report,
            cpu_s=cpu.cpu_s,
            instructions=await counting.stop() if counting else None,
            resident_bytes=memory_of(cpu.pids).resident_bytes if cpu.pids else None,
        )

    async def _measure_open(self, number: int, workload: Workload, running: RunningSystem) -> Sample:
        """Open all streams, look at the router's memory, have them end."""
        await self._fleet.follow(workload)
        with cpu_of(running.pid) as cpu:
            load = Load(workload, running.port, self._cores)
            await load.start(60.0)
            await load.until_open()
            resident = memory_of(cpu.pids).resident_bytes if cpu.pids else None
            await self._fleet.end_streams()
            report = await load.report()
        await asyncio.sleep(0.5)  # thousands of connections are being closed
        return Sample(
            round=number,
            system=running.system.name,
            workload=workload,
            load=report,
            cpu_s=cpu.cpu_s,
            instructions=None,
            resident_bytes=resident,
        )


def _progress(sample: Sample) -> str:
    load = sample.load
    failed = f", {load.bad} FAILED {load.statuses}" if load.bad else ""
    return (
        f"  round {sample.round + 1} {sample.workload.name} {sample.system}: {load.requests} requests, "
        f"{sample.cpu_us_per_request:.0f} us CPU each, {sample.cpu_us_per_chunk:.1f} a chunk{failed}"
    )

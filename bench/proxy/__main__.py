"""Baton's proxy beside vllm-router and sglang-router: CPU, latency, memory, prefix hits, faults.

    python -P -m baton.bench.proxy              # `make bench-proxy`

Routers run one at a time on a core of their own, in rounds, over the same mock workers and the same load. The
target: at most half of vllm-router's CPU time on each required workload, by the median of the rounds' ratios.
The last line is `proxy: ...`; the exit status says whether the
target holds and Baton lost no request; without a required workload, only the latter.
"""

import argparse
import asyncio
import contextlib
import datetime
import resource
import sys
from pathlib import Path

from .compiled import BenchError, compile_program, running_mock_fleet
from .cores import Cores, share_cores
from .fault_cases import CASES, play_cases
from .measure import counts_instructions
from .peers import REQUIREMENTS, default_folder, install_peers
from .prefix_hits import CAPACITIES, Hits, compared_policies, measure_hits
from .report import Report
from .rounds import Runner, Sample
from .systems import DIRECT, REFERENCE, Family, System, compared_systems, running_system
from .table import Verdict, verdict
from .workloads import WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results"
DEFAULT_SYSTEMS = ("direct", "vllm-ca", "vllm-rr", "sgl-rr", "baton")
"""Of a family, the last meets the faults."""
HITS, FAULTS = "hits", "faults"
ROUNDS, SECONDS = 5, 3.0
QUICK_SECONDS = 1.5


async def measure_rounds(
    systems: list[System], workloads: list[Workload], cores: Cores, arguments: argparse.Namespace
) -> list[Sample]:
    """Bring every system up; measure in rounds, the open streams once at the end."""
    looped = [workload for workload in workloads if not workload.once]
    at_end = [workload for workload in workloads if workload.once]
    samples: list[Sample] = []
    async with contextlib.AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(running_mock_fleet(2, 2, cores))
        running = [
            await stack.enter_async_context(running_system(system, fleet.ports, cores, arguments.peers))
            for system in systems
        ]
        runner = Runner(fleet, cores, seconds=arguments.seconds, instructions=counts_instructions())
        for number in range(arguments.rounds):
            samples += await runner.round(number, looped, running)
        samples += await runner.round(0, at_end, running)
    return samples


async def measure_all_hits(systems: list[System], cores: Cores, peers: Path) -> list[Hits]:
    """Measure the policies of every family that takes part."""
    families = {system.family for system in systems}
    hits = []
    for system in compared_policies():
        if system.family not in families:
            continue
        for capacity in CAPACITIES:
            hits.append(await measure_hits(system, capacity, cores, peers))
            print(f"  hits {system.name} {capacity}: {hits[-1].prefill} {hits[-1].split}", flush=True)
    return hits


async def play_faults(report: Report, systems: list[System], cores: Cores, peers: Path) -> None:
    """Play every case on every router."""
    for system in systems:
        if system.family is Family.DIRECT:
            continue
        async for case, seen in play_cases(CASES, system, cores, peers):
            report.add_fault(case, system, seen)
            print(f"  {system.name} | {case.name} | {seen.text}{' LOST' if seen.lost else ''}", flush=True)


async def run(arguments: argparse.Namespace) -> Verdict:
    """Run what was asked for; print and write the report."""
    known = compared_systems()
    systems = [known[name] for name in arguments.systems]
    cores = share_cores()
    for program in ("mock_worker", "load"):
        compile_program(program)
    if any(system.family in (Family.VLLM, Family.SGLANG) for system in systems):
        await install_peers(arguments.peers)
    report = Report(reference=REFERENCE.name, cores=cores, peers=REQUIREMENTS, systems=systems)
    wanted = [workload for workload in WORKLOADS if workload.name in arguments.workloads]
    if wanted:
        report.samples = await measure_rounds(systems, wanted, cores, arguments)
    if HITS in arguments.workloads:
        report.hits = await measure_all_hits(systems, cores, arguments.peers)
    if FAULTS in arguments.workloads:
        await play_faults(report, systems, cores, arguments.peers)
    result = verdict(
        report.samples,
        "baton",
        REFERENCE.name,
        lost_cases=report.lost_cases(Family.BATON),
        compares=any(workload.required for workload in wanted),
    )
    text = report.text()
    print(f"\n{text}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(f"# bench-proxy\n\n{text}\n\n`{result.line}`\n")
        print(f"\nwritten to {arguments.out}")
    return result


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [*(workload.name for workload in WORKLOADS), HITS, FAULTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, no faults and no hits")
    parser.add_argument(
        "--systems", type=_listed, default=list(DEFAULT_SYSTEMS), help=", ".join(compared_systems())
    )
    parser.add_argument("--workloads", type=_listed, help=", ".join(names))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="length of one run")
    parser.add_argument(
        "--peers", type=Path, default=default_folder(), help="where the other routers are installed"
    )
    parser.add_argument("--out", type=Path, help="where the report is written; a full run has a default")
    arguments = parser.parse_args()
    quick = [workload.name for workload in WORKLOADS if not workload.once]
    arguments.workloads = arguments.workloads or (quick if arguments.quick else names)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else ROUNDS)
    arguments.seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    if sorted(arguments.workloads) == sorted(names) and not arguments.quick:
        arguments.out = arguments.out or RESULTS / f"{datetime.datetime.now():%Y-%m-%d}.md"
    for option, allowed in (("systems", list(compared_systems())), ("workloads", names)):
        if unknown := [name for name in getattr(arguments, option) if name not in allowed]:
            parser.error(f"--{option}: {', '.join(unknown)}: choose from {', '.join(allowed)}")
    if DIRECT.name not in arguments.systems:
        arguments.systems.insert(0, DIRECT.name)  # what is added is counted from it
    return arguments


def _listed(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    """Run from the command line."""
    arguments = parse_arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        result = asyncio.run(run(arguments))
    except BenchError as error:
        sys.exit(f"bench-proxy: {error}")
    print(result.line)
    sys.exit(0 if result.holds else 1)


if __name__ == "__main__":
    main()

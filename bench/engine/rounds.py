"""Drives the servers by turns: for each workload one is measured while the others' processes stand still.

    python -P -m baton.bench.engine.rounds PLAN RESULTS

A process of its own, so that it can be run under a command that keeps the machine quiet. Reads a `Plan`,
writes a list of `Sample`, both JSON. In every round each workload's prompts are new, and the same for all
servers; who goes first changes from round to round.
"""

import contextlib
import random
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from ..prompts import draw_token_ids
from .servers import signal_tree
from .workload import HeldUpError, Speed, Workload, run_workload

TRIES = 3
"""For one workload's turns of a round"""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server to measure, and on what."""

    name: str
    url: str
    pid: int
    workloads: list[str]
    """Names"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    targets: list[Target]
    workloads: list[Workload]
    rounds: int
    vocabulary: int
    seed: int
    """Of the prompts: another for every run, for a server that is kept has seen those of the run before"""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    round: int
    target: str
    workload: str
    speed: Speed


def let_run(target: Target, targets: list[Target]) -> None:
    """Let one server run, and nobody else."""
    for other in targets:
        if other is not target:
            signal_tree(other.pid, signal.SIGSTOP)
    signal_tree(target.pid, signal.SIGCONT)


async def measure(plan: Plan) -> list[Sample]:
    """Run a round to warm up, then those that count."""
    rng = random.Random(plan.seed)
    samples = []
    try:
        for number in range(-1, plan.rounds):
            for workload in plan.workloads:
                found = await _undisturbed(plan, workload, rng, number)
                samples += found if number >= 0 else []
    finally:
        for target in plan.targets:
            signal_tree(target.pid, signal.SIGCONT)
    return samples


async def _undisturbed(plan: Plan, workload: Workload, rng: random.Random, number: int) -> list[Sample]:
    """Let all take turns; anew, with other prompts, when this process was held up. Raises `HeldUpError`."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(HeldUpError):
            return await _turns(plan, workload, rng, number)
        print(f"  {number} {workload.name} | held up: once more", flush=True)
    return await _turns(plan, workload, rng, number)


async def _turns(plan: Plan, workload: Workload, rng: random.Random, number: int) -> list[Sample]:
    prompts = [draw_token_ids(rng, workload.prompt_tokens, plan.vocabulary) for _ in range(workload.prompts)]
    samples = []
    for target in plan.targets if number % 2 else reversed(plan.targets):
        if workload.name not in target.workloads:
            continue
        let_run(target, plan.targets)
        speed = await run_workload(target.url, workload, prompts)
        print(
            f"  {number} {workload.name} | {target.name} {speed.rate:.0f}/s, {speed.wall_s:.1f} s", flush=True
        )
        samples.append(Sample(round=number, target=target.name, workload=workload.name, speed=speed))
    return samples


def main() -> None:
    """Read the plan, measure, write the samples."""
    plan_file, results_file = map(Path, sys.argv[1:3])
    plan = msgspec.json.decode(plan_file.read_bytes(), type=Plan)
    results_file.write_bytes(msgspec.json.encode(uvloop.run(measure(plan))))


if __name__ == "__main__":
    main()

"""The split of a step's time: the workloads once more, on a worker whose engine samples itself.

    python -P -m baton.bench.engine.split PLAN RESULTS

A process of its own, like `rounds`. Reads a `SplitPlan`, writes a list of `StepSplit`, both JSON.

The worker is served over HTTP like the others. The frontend runs in a process beside the engine, so what it
takes stands beside the step: its processor time, divided by the steps.
"""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from ..processes import cpu_ns, process_tree
from ..prompts import draw_token_ids
from ..table import render
from .profile import Part, Shares
from .servers import Server, started, told_url
from .workload import Workload, run_workload

TOLD_TIMEOUT_S = 10.0


class SplitPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    model: str
    settings: list[str]
    """Of the worker, `KEY=VALUE`"""
    workloads: list[Workload]
    vocabulary: int


class StepSplit(msgspec.Struct, frozen=True, kw_only=True):
    """One workload's steps on the profiled worker."""

    workload: str
    steps: int
    seconds: dict[str, float]
    """By part, of the engine"""
    frontend_cpu_s: float
    rate: float
    """Tokens a second, as the client saw them with sampling on"""


@dataclass(frozen=True, slots=True)
class ProfiledWorker:
    """A running worker and where its engine's shares are written."""

    server: Server
    shares: Path

    def engine_pid(self) -> int:
        """Process id of the engine, the frontend's only child."""
        return process_tree(self.server.pid)[1]

    def take(self) -> Shares:
        """Return the engine's shares since the last time."""
        self.shares.unlink(missing_ok=True)
        os.kill(self.engine_pid(), signal.SIGUSR1)
        deadline = time.monotonic() + TOLD_TIMEOUT_S
        while not self.shares.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the engine did not tell its shares")
            time.sleep(0.005)
        return msgspec.json.decode(self.shares.read_bytes(), type=Shares)


@contextlib.contextmanager
def profiled_worker(model: Path, folder: Path, *settings: str) -> Iterator[ProfiledWorker]:
    """Run one until the context is left."""
    shares, log = folder / "shares.json", folder / "profiled.log"
    module = [sys.executable, "-P", "-m", "baton.bench.engine.profiled_worker"]
    with started([*module, str(model), str(shares), *settings], log) as process:
        yield ProfiledWorker(Server("profiled", told_url(process, log), process.pid), shares)


async def measure_split(worker: ProfiledWorker, workload: Workload, vocabulary: int) -> StepSplit:
    """Run a workload twice; the second time counts."""
    rng = random.Random(1)
    for _ in range(2):
        prompts = [draw_token_ids(rng, workload.prompt_tokens, vocabulary) for _ in range(workload.prompts)]
        worker.take()
        frontend = cpu_ns([worker.server.pid])
        speed = await run_workload(worker.server.url, workload, prompts)
        shares = worker.take()
        frontend = cpu_ns([worker.server.pid]) - frontend
    return StepSplit(
        workload=workload.name,
        steps=workload.prompts if workload.is_prefill else workload.output_tokens,
        seconds=shares.seconds,
        frontend_cpu_s=frontend / 1e9,
        rate=speed.rate,
    )


def split_table(model: str, splits: list[StepSplit]) -> str:
    """Return milliseconds a step of every part."""
    parts = [part for part in Part if part is not Part.WAITING]
    header = [
        f"{model}, ms a step",
        "steps",
        *(part.value for part in parts),
        "engine",
        "frontend",
        "tokens/s",
    ]
    rows = []
    for split in splits:
        busy = [split.seconds.get(part.value, 0.0) / split.steps for part in parts]
        cells = [*busy, sum(busy), split.frontend_cpu_s / split.steps]
        rows.append(
            [split.workload, str(split.steps), *(f"{s * 1000:.2f}" for s in cells), f"{split.rate:.0f}"]
        )
    return render(header, rows)


def main() -> None:
    """Read the plan, measure, write the splits."""
    plan_file, results_file = map(Path, sys.argv[1:3])
    plan = msgspec.json.decode(plan_file.read_bytes(), type=SplitPlan)
    with profiled_worker(Path(plan.model), results_file.parent, *plan.settings) as worker:
        splits = [uvloop.run(measure_split(worker, workload, plan.vocabulary)) for workload in plan.workloads]
    results_file.write_bytes(msgspec.json.encode(splits))


if __name__ == "__main__":
    main()

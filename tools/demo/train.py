"""Train the demo model; may be killed at any time and started again with the same command.

    python -m baton.tools.demo.train --work-dir /tmp/demo-train --tokens 25000000

Each process computes on one thread and they average their gradients once a step: on a machine that
other work shares, that loses far less than threads which meet after every operation.
The learning rate warms up, stays, and falls to zero over the last part of the token budget.  To stop
early, kill the run and start it again with a smaller `--tokens`: it decays from there.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer
from torch import distributed
from torch.multiprocessing.spawn import spawn

from .accuracy import summary
from .batches import STEP_TOKENS, draw_batch, draw_length
from .checkpoint import Run, load_tokenizer, make_tokenizer, resume, save
from .objective import Schedule, train_step

_MTP_FROM = 0.25  # of the budget: the MTP layer learns once the main model has something to say
_MTP_EVERY = 3  # steps: it costs a quarter of a step and learns fast


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run aims at; only `schedule` and the intervals may change between a kill and a restart."""

    work_dir: Path
    schedule: Schedule
    seed: int
    processes: int
    save_every_s: float
    report_every_s: float


def step(run: Run, tokenizer: Tokenizer, plan: Plan, rank: int) -> float:
    """One step of one process; returns its loss on answers."""
    progress, done = run.progress, run.progress.tokens / plan.schedule.tokens
    length = draw_length(random.Random(f"{plan.seed} {progress.steps}"), done)
    rng = random.Random(f"{plan.seed} {progress.steps} {rank} of {plan.processes}")
    batch = draw_batch(tokenizer, rng, length, STEP_TOKENS // plan.processes)
    mtp = done >= _MTP_FROM and progress.steps % _MTP_EVERY == 0
    rate = plan.schedule.rate(steps=progress.steps, tokens=progress.tokens)
    loss = train_step(run.model, run.optimizer, batch, rate, mtp=mtp)
    progress.steps += 1
    progress.tokens += batch.ids.numel() * plan.processes
    return loss


def train(rank: int, plan: Plan, meeting_point: str) -> None:
    """One process's share of the run, until the budget is spent; process 0 saves and reports."""
    torch.set_num_threads(1)
    if plan.processes > 1:
        distributed.init_process_group(
            "gloo", f"file://{meeting_point}", rank=rank, world_size=plan.processes
        )
    tokenizer = load_tokenizer(plan.work_dir)
    run = resume(plan.work_dir, plan.seed)
    started = saved = reported = time.monotonic()
    before_s = run.progress.seconds
    recent: list[float] = []
    while run.progress.tokens < plan.schedule.tokens:
        recent.append(step(run, tokenizer, plan, rank))
        now = time.monotonic()
        run.progress.seconds = before_s + now - started
        finished = run.progress.tokens >= plan.schedule.tokens
        if rank == 0 and (finished or now - saved > plan.save_every_s):
            save(plan.work_dir, run)
            saved = now
        if rank == 0 and (finished or now - reported > plan.report_every_s):
            report(run, tokenizer, sum(recent) / len(recent))
            recent, reported = [], now


def report(run: Run, tokenizer: Tokenizer, loss: float) -> None:
    """Print one line: progress, loss, accuracy on fresh prompts by length."""
    progress = run.progress
    found = summary(run.model, tokenizer, random.Random(f"report {progress.steps}"))
    line = f"step {progress.steps}, {progress.tokens / 1e6:.2f}M tokens, {progress.seconds / 60:.1f} min"
    print(f"{line}, answer loss {loss:.4f} | {found}", flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work-dir", type=Path, required=True, help="where checkpoint and tokenizer are kept"
    )
    parser.add_argument("--tokens", type=int, default=25_000_000, help="token budget of the whole run")
    parser.add_argument("--peak-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=90, metavar="SECONDS")
    parser.add_argument("--report-every", type=float, default=180, metavar="SECONDS")
    arguments = parser.parse_args()
    plan = Plan(
        work_dir=arguments.work_dir,
        schedule=Schedule(tokens=arguments.tokens, peak_rate=arguments.peak_rate),
        seed=arguments.seed,
        processes=arguments.processes,
        save_every_s=arguments.save_every,
        report_every_s=arguments.report_every,
    )
    plan.work_dir.mkdir(parents=True, exist_ok=True)
    make_tokenizer(plan.work_dir, plan.seed)
    with tempfile.TemporaryDirectory() as scratch:
        meeting_point = str(Path(scratch) / "meeting-point")
        spawn(train, args=(plan, meeting_point), nprocs=plan.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()

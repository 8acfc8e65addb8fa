"""Dispatch and combine of every backend beside bare collectives, and a decode step in overlapping halves.

    python -P -m baton.bench.ep                     # `make bench-ep`: gloo, 2 and 4 ranks on this machine
    torchrun --nproc-per-node 8 -m baton.bench.ep --torchrun --device cuda --dtype bfloat16 \\
        --hidden 7168 --experts 256 --backend deepep_low_latency

Under torchrun, on one host or several, the ranks it starts are the group, and rank 0 prints. The last line of
each part is its figure; the exit status says whether all targets hold.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

from ...engine.config import MoeBackendName
from ..table import ms, render
from .overlap import Overlap, OverlapPlan, make_checkpoint, measure_overlap
from .processes import on_ranks, on_torchrun
from .shape import Shape
from .slow_network import Medium
from .transfers import Transfer, TransferPlan, measure_transfers

RATIO_TARGET = 4.0
"""Seconds of a backend for a second of bare collectives, the geometric mean over what is measured. A backend
also copies a row for each expert of a token and sums outputs up, which bare collectives do not."""
CUT_TARGET = 0.25
RANKS = (2, 4)
BATCHES = (1, 8, 32, 128)
GLOO_BACKENDS = (MoeBackendName.ALLGATHER_REDUCESCATTER, MoeBackendName.ALL_TO_ALL)
OVERLAP_RANKS = 2


def main() -> int:
    """Measure, print, and return the exit status."""
    options = _parse()
    if options.torchrun:
        transfers = on_torchrun(options.device, measure_transfers, _plan(options))
        return 0 if transfers is None else _report(transfers)
    status = 0 if options.overlap_only else _report(_transfers(options))
    return status if options.transfers_only else max(status, _overlap(options))


def _transfers(options: argparse.Namespace) -> list[Transfer]:
    plan = _plan(options)
    return [transfer for size in options.ranks for transfer in on_ranks(size, measure_transfers, plan)]


def _overlap(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="baton-") as folder:
        model = make_checkpoint(Path(folder) / "model")
        plan = OverlapPlan(
            rows=options.rows,
            context=options.context,
            delay_s=options.delay_ms / 1e3,
            rounds=options.steps,
        )
        overlap = on_ranks(OVERLAP_RANKS, measure_overlap, model, plan, Medium.of(OVERLAP_RANKS))
    return _report_overlap(overlap, options.delay_ms)


def _report(transfers: list[Transfer]) -> int:
    rows = [
        [f"{each.backend} {each.rows}", str(each.ranks), str(each.tokens)]
        + [f"{own * 1e3:.2f} / {bare * 1e3:.2f}" for own, bare in _pairs(each)]
        + [f"{each.ratio:.2f}"]
        for each in transfers
    ]
    print(render(["backend, rows", "ranks", "tokens", "dispatch / bare", "combine / bare", "ratio"], rows))
    figure = math.exp(sum(math.log(each.ratio) for each in transfers) / len(transfers))
    print(f"ep transfers: {figure:.2f} times bare collectives (target at most {RATIO_TARGET})", flush=True)
    return 0 if figure <= RATIO_TARGET else 1


def _pairs(transfer: Transfer) -> list[tuple[float, float]]:
    return [
        (transfer.dispatch_s, transfer.bare_dispatch_s),
        (transfer.combine_s, transfer.bare_combine_s),
    ]


def _report_overlap(overlap: Overlap, delay_ms: float) -> int:
    print(
        f"a decode step of {overlap.rows} rows a rank, ms: {ms(overlap.computing_s)} without delay, "
        f"in halves {ms(overlap.halving_s)}; "
        f"with {delay_ms:g} ms an exchange {ms(overlap.whole_s)}, in halves {ms(overlap.halves_s)}"
    )
    print(f"ep overlap: {overlap.cut:.0%} off the step (target {CUT_TARGET:.0%})")
    return 0 if overlap.cut >= CUT_TARGET else 1


def _plan(options: argparse.Namespace) -> TransferPlan:
    return TransferPlan(
        backends=[MoeBackendName(name) for name in options.backend] or list(GLOO_BACKENDS),
        shape=Shape(hidden=options.hidden, top_k=options.top_k, experts=options.experts, dtype=options.dtype),
        batches=options.tokens,
        rounds=options.rounds,
        device=options.device,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [name.value for name in MoeBackendName]
    shape = Shape()
    parser.add_argument("--backend", choices=names, nargs="*", default=[], help="those of gloo by default")
    parser.add_argument("--tokens", type=int, nargs="*", default=list(BATCHES), help="tokens of a rank")
    parser.add_argument("--ranks", type=int, nargs="*", default=list(RANKS), help="group sizes started here")
    parser.add_argument("--rounds", type=int, default=60, help="rounds for each line of the table")
    parser.add_argument("--hidden", type=int, default=shape.hidden)
    parser.add_argument("--top-k", type=int, default=shape.top_k)
    parser.add_argument("--experts", type=int, default=shape.experts)
    parser.add_argument("--dtype", default=shape.dtype)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--torchrun", action="store_true", help="be one of the ranks that torchrun started")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--transfers-only", action="store_true", help="leave the overlap out")
    only.add_argument("--overlap-only", action="store_true", help="leave the transfers out")
    parser.add_argument("--delay-ms", type=float, default=5.0, help="of each exchange, for the overlap")
    parser.add_argument("--rows", type=int, help="decode rows of a rank; absent: as many as suit the delay")
    parser.add_argument("--context", type=int, default=192, help="tokens of each row, for the overlap")
    parser.add_argument("--steps", type=int, default=60, help="steps of each kind, for the overlap")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

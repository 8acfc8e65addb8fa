"""The bench's ranks all get one result: every backend in both formats, beside the same bytes sent bare."""

from baton.bench.ep.shape import Shape
from baton.bench.ep.slow_network import Medium
from baton.bench.ep.transfers import Transfer, TransferPlan, measure_transfers
from baton.engine.config import MoeBackendName
from support.ranks import run_ranks
from support.slow_transfers import late_rows

BACKENDS = [MoeBackendName.ALLGATHER_REDUCESCATTER, MoeBackendName.ALL_TO_ALL]


def test_every_backend_is_measured_in_both_formats_and_all_ranks_agree() -> None:
    plan = TransferPlan(
        backends=BACKENDS, shape=Shape(hidden=16, experts=8, top_k=2), batches=[3], rounds=2, device="cpu"
    )

    first, second = run_ranks(2, measure_transfers, plan)

    assert first == second
    kinds = [(transfer.backend, transfer.rows) for transfer in first]
    assert kinds == [(name.value, rows) for name in BACKENDS for rows in ("contiguous", "batched")]
    assert all(transfer.ratio > 0 for transfer in first)


def test_a_slow_network_is_late_and_loses_nothing() -> None:
    assert run_ranks(2, late_rows, Medium.of(2)) == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_the_ratio_is_of_both_ways_together() -> None:
    transfer = Transfer(
        backend="all_to_all",
        rows="batched",
        ranks=2,
        tokens=8,
        dispatch_s=3.0,
        combine_s=2.0,
        bare_dispatch_s=1.0,
        bare_combine_s=1.5,
    )

    assert transfer.ratio == 2.0

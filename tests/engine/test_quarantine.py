"""A worker whose pool is kept by transfers without an end says so and ends; one that gets it back goes on."""

import pytest

from baton.engine.messages import BlockCounts
from baton.engine.quarantine import PATIENCE_S, QuarantineFullError, QuarantineWatch
from support.fake_model import tokens_after
from support.fake_transfer import FakeNetwork
from support.fake_worker import FakeWorker, hand_over

PROMPT = [(i * i + 3) % 60 for i in range(21)]
HALF, MORE = (
    BlockCounts(free=10 - quarantined, cached=0, in_use=0, quarantined=quarantined, total=10)
    for quarantined in (5, 6)
)
TURNS = int(PATIENCE_S)


def worker_with_a_read_without_an_end(blocks: int) -> FakeWorker:
    """A pull into six blocks was given up; its request waits to be computed here."""
    network = FakeNetwork()
    prefill = FakeWorker("prefill", blocks=64, network=network)
    worker = FakeWorker("decode", blocks=blocks, network=network)
    worker.submit("r", PROMPT, 4, kv_transfer=hand_over(prefill, "r", PROMPT))
    worker.turn()
    [pull_id] = worker.service.pulls
    worker.service.fail(pull_id, reusable=False)
    return worker


def turn_for(worker: FakeWorker, seconds: int) -> None:
    for _ in range(seconds):
        worker.turn()


@pytest.mark.parametrize("blocks", [8, 12])
def test_no_room_for_a_minute_ends_the_worker_by_name(blocks: int) -> None:
    worker = worker_with_a_read_without_an_end(blocks)
    worker.submit("needs more than half", PROMPT + PROMPT[:8], 2)
    turn_for(worker, TURNS // 2)

    with pytest.raises(QuarantineFullError, match=f"6 of {blocks} blocks have been in quarantine for 60 s"):
        turn_for(worker, TURNS)
    assert bool(worker.tokens_of("r")) == (blocks == 12)


def test_blocks_that_come_back_in_time_are_served_from() -> None:
    worker = worker_with_a_read_without_an_end(8)
    turn_for(worker, TURNS - 5)
    [pull_id] = worker.service.quarantined
    worker.service.lift(pull_id)
    turn_for(worker, TURNS)

    assert worker.tokens_of("r") == tokens_after(PROMPT, 4)


def test_half_a_pool_is_enough_as_long_as_requests_fit_it() -> None:
    watch = QuarantineWatch()
    for now in (0.0, PATIENCE_S, 2 * PATIENCE_S):
        watch.check(HALF, now, is_stuck=False)


def test_only_time_without_a_break_counts() -> None:
    watch = QuarantineWatch()
    watch.check(MORE, 0.0, is_stuck=False)
    watch.check(HALF, PATIENCE_S - 1, is_stuck=False)
    watch.check(MORE, PATIENCE_S, is_stuck=False)
    watch.check(MORE, 2 * PATIENCE_S - 1, is_stuck=False)

    with pytest.raises(QuarantineFullError):
        watch.check(MORE, 2 * PATIENCE_S, is_stuck=False)


def test_waiting_requests_count_only_against_a_quarantine() -> None:
    watch = QuarantineWatch()
    blocks = BlockCounts(free=10, cached=0, in_use=0, quarantined=0, total=10)
    for now in (0.0, PATIENCE_S):
        watch.check(blocks, now, is_stuck=True)
    watch.check(HALF, PATIENCE_S, is_stuck=True)

    with pytest.raises(QuarantineFullError):
        watch.check(HALF, 2 * PATIENCE_S, is_stuck=True)

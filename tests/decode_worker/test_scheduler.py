"""A decode worker uses pulled KV only when it is the right one, and computes the prompt itself otherwise."""

from typing import cast

import msgspec
import pytest

from baton.engine.messages import Abort, AbortExternal, FailureKind, Generate, SamplingParams
from baton.engine.step import Step
from baton.kvtransfer.params import KvTransferParams
from baton.kvtransfer.service import LeaseEnd, PullFailure
from support.fake_model import VOCABULARY, tokens_after
from support.fake_transfer import FakeNetwork
from support.fake_worker import FakeWorker, hand_over

PROMPT = [(i * i + 3) % 60 for i in range(21)]


class Pair:
    """A prefill and a decode worker on one network."""

    def __init__(self, **decode: int) -> None:
        network = FakeNetwork()
        self.prefill = FakeWorker("prefill", blocks=64, network=network)
        self.decode = FakeWorker("decode", network=network, **decode)

    def offer(self, request_id: str, prompt: list[int] = PROMPT) -> KvTransferParams:
        return hand_over(self.prefill, request_id, prompt)

    def settle(self) -> None:
        """Let pulls end and both workers run until nothing is left to do."""
        while True:
            self.decode.run()
            self.prefill.run()
            if not self.decode.service.pulls:
                return
            self.decode.service.finish_all()

    def pull_id(self) -> str:
        [pull_id] = self.decode.service.pulls
        return pull_id

    @property
    def is_empty(self) -> bool:
        counts = self.decode.pool.counts()
        return (counts.in_use, counts.quarantined, self.decode.scheduler.pulls, self.prefill.in_use) == (
            0,
            0,
            0,
            0,
        )


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_pulled_blocks_give_the_models_tokens_without_a_prefill(pair: Pair) -> None:
    pair.decode.submit("r", PROMPT, 8, kv_transfer=pair.offer("r"))
    pair.settle()

    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 8)
    assert pair.decode.model.prefilled_tokens == 0
    assert not pair.decode.first("r").recomputed
    assert pair.is_empty


@pytest.mark.parametrize("length", [1, 2, 4, 5, 8, 9])
def test_every_length_around_a_block_border_is_pulled_right(pair: Pair, length: int) -> None:
    prompt = PROMPT[:length]
    pair.decode.submit("r", prompt, 6, kv_transfer=pair.offer("r", prompt))
    pair.settle()

    assert pair.decode.tokens_of("r") == tokens_after(prompt, 6)
    assert pair.is_empty


def test_the_first_token_tells_the_phases_of_both_workers(pair: Pair) -> None:
    pair.decode.submit("r", PROMPT, 2, kv_transfer=pair.offer("r"))
    pair.settle()

    first = pair.decode.first("r")
    assert (first.phases.queue_s, first.phases.prefill_s) == (0.0, 1.0)
    assert (first.phases.transfer_s, first.phases.first_step_s) == (0.25, 0.0)
    assert first.kv_bytes == 6 * 4 * 2 * 4
    counters = pair.decode.scheduler.counters
    assert (counters.prompt_tokens, counters.prompt_tokens_pulled) == (21, 20)
    assert counters.kv_bytes_pulled == first.kv_bytes


def test_cached_tokens_are_the_prefill_workers_or_ours_whichever_is_more(pair: Pair) -> None:
    pair.offer("warm-up")
    pair.decode.submit("r", PROMPT, 2, kv_transfer=pair.offer("r"))
    pair.settle()

    assert pair.decode.first("r").cached_tokens == 20


def test_only_blocks_that_are_not_cached_here_are_pulled(pair: Pair) -> None:
    pair.decode.submit("a", PROMPT, 2, kv_transfer=pair.offer("a"))
    pair.settle()
    longer = [*PROMPT[:12], 1, 2, 3, 4, 5]
    pair.decode.submit("b", longer, 6, kv_transfer=pair.offer("b", longer))
    pair.decode.turn()

    [running] = pair.decode.service.pulls.values()
    assert len(running.pull.local_block_ids) == 2
    pair.settle()
    assert pair.decode.tokens_of("b") == tokens_after(longer, 6)


@pytest.mark.parametrize("length", [20, 21])
def test_a_full_hit_only_acknowledges(pair: Pair, length: int) -> None:
    prompt = PROMPT[:length]
    pair.decode.submit("a", prompt, 2)
    pair.decode.run()
    pair.decode.submit("b", prompt, 6, kv_transfer=pair.offer("b", prompt))
    pair.decode.turn()

    [running] = pair.decode.service.pulls.values()
    assert running.pull.local_block_ids == ()
    assert pair.decode.tokens_of("b") == tokens_after(prompt, 1)
    pair.settle()
    assert pair.decode.service.acknowledged == ["b"]
    assert pair.decode.tokens_of("b") == tokens_after(prompt, 6)
    assert pair.is_empty


def launch_a_copy_for_a_sequence_without_a_seat(worker: FakeWorker, offer: KvTransferParams) -> Step:
    """Cached whole, "b" gets a copy of its last block in a step that computes the one seat's prompt."""
    worker.submit("a", PROMPT[:20], 2)
    worker.run()
    worker.submit("seated", PROMPT[::-1] * 2, 2)
    worker.submit("b", PROMPT[:20], 2, kv_transfer=offer)
    for message in worker.inbox.messages():
        worker.scheduler.on_generate(cast("Generate", message), worker.clock())
    step, _ = worker.scheduler.schedule(worker.clock())
    worker.scheduler.on_launch(step)
    assert (len(step.copies), len(step.chunks), step.completed) == (1, 1, [])
    return step


def test_an_abort_keeps_a_block_until_the_copy_into_it_has_landed() -> None:
    pair = Pair(max_num_seqs=1)
    scheduler = pair.decode.scheduler
    step = launch_a_copy_for_a_sequence_without_a_seat(pair.decode, pair.offer("b", PROMPT[:20]))
    before = pair.decode.pool.available
    scheduler.on_abort("b", None)

    assert scheduler.problems() == []
    assert pair.decode.pool.available == before
    scheduler.on_step(step, [], pair.decode.clock())
    assert scheduler.problems() == []
    assert pair.decode.pool.available == before + 6  # the cached blocks, one of them the source, and the copy


def test_a_step_that_raises_fails_also_those_it_only_copied_for() -> None:
    pair = Pair(max_num_seqs=1)
    step = launch_a_copy_for_a_sequence_without_a_seat(pair.decode, pair.offer("b", PROMPT[:20]))
    pair.decode.scheduler.on_step_failed(step, "the device broke")

    assert pair.decode.scheduler.requests == {}
    assert pair.decode.in_use == 0


@pytest.mark.parametrize(
    "changes",
    [{"baton_token_digest": "0" * 32}, {"baton_token_digest": None}, {"remote_num_tokens": 20}],
)
def test_kv_of_other_tokens_is_never_used(pair: Pair, changes: dict[str, object]) -> None:
    offer = msgspec.structs.replace(pair.offer("r"), **changes)
    pair.decode.submit("r", PROMPT, 6, kv_transfer=offer)
    pair.settle()

    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 6)
    assert pair.decode.first("r").recomputed
    assert pair.decode.first("r").kv_bytes == 0
    assert pair.decode.model.prefilled_tokens == 21
    assert pair.decode.service.acknowledged == ["r"]
    assert pair.is_empty


def test_too_few_blocks_for_the_prompt_are_not_used(pair: Pair) -> None:
    offer = pair.offer("r")
    assert offer.remote_block_ids is not None
    offer = msgspec.structs.replace(offer, remote_block_ids=[offer.remote_block_ids[0][:-1]])
    pair.decode.submit("r", PROMPT, 6, kv_transfer=offer)
    pair.settle()

    assert pair.decode.first("r").recomputed
    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 6)


@pytest.mark.parametrize("reason", PullFailure)
def test_a_failed_pull_is_counted_and_the_prompt_computed_here(pair: Pair, reason: PullFailure) -> None:
    pair.decode.submit("r", PROMPT, 6, kv_transfer=pair.offer("r"))
    pair.decode.turn()
    pair.decode.service.fail(pair.pull_id(), reason)
    pair.settle()

    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 6)
    assert pair.decode.first("r").recomputed
    assert pair.decode.scheduler.counters.pulls_failed == {reason.value: 1}
    assert pair.decode.in_use == 0


def test_blocks_that_may_still_be_written_are_not_reused_before_the_transfer_is_terminal() -> None:
    pair = Pair(blocks=14)
    pair.decode.submit("r", PROMPT, 6, kv_transfer=pair.offer("r"))
    pair.decode.turn()
    pull_id = pair.pull_id()
    pair.decode.service.fail(pull_id, PullFailure.TIMEOUT, reusable=False)
    pair.decode.run()
    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 6)
    assert pair.decode.pool.counts().quarantined == 6

    pair.decode.service.lift(pull_id)
    pair.decode.run()
    assert pair.decode.pool.counts().quarantined == 0
    assert pair.decode.scheduler.pulls == 0


def test_a_request_waits_when_quarantine_leaves_no_room() -> None:
    pair = Pair(blocks=8)
    pair.decode.submit("r", PROMPT, 4, kv_transfer=pair.offer("r"))
    pair.decode.turn()
    pull_id = pair.pull_id()
    pair.decode.service.fail(pull_id, PullFailure.TIMEOUT, reusable=False)
    pair.decode.run()
    assert pair.decode.tokens_of("r") == []

    pair.decode.service.lift(pull_id)
    pair.decode.run()
    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 4)


def test_pulls_wait_in_order_for_room_and_an_expired_lease_means_recomputing() -> None:
    pair = Pair(blocks=15)
    prompts = {name: [seed, *PROMPT[1:]] for seed, name in enumerate("abcd", start=1)}
    for name, prompt in prompts.items():
        pair.decode.submit(name, prompt, 6, kv_transfer=pair.offer(name, prompt))
    pair.decode.turn()
    assert [running.pull.lease_id for running in pair.decode.service.pulls.values()] == ["a", "b"]

    pair.prefill.service.end_lease("d", LeaseEnd.EXPIRED)
    pair.settle()
    for name, prompt in prompts.items():
        assert pair.decode.tokens_of(name) == tokens_after(prompt, 6)
        assert pair.decode.first(name).recomputed is (name == "d")
    assert pair.decode.scheduler.counters.pulls_failed == {"lease_unknown": 1}
    assert pair.is_empty


def test_pulls_start_before_there_is_a_row_for_them() -> None:
    pair = Pair(max_num_seqs=1)
    pair.decode.submit("busy", [1, 2, 3], 30)
    pair.decode.turn()
    pair.decode.submit("r", PROMPT, 4, kv_transfer=pair.offer("r"))
    pair.decode.turn()
    pair.decode.service.finish(pair.pull_id())
    pair.decode.turn()

    assert pair.prefill.service.offers == {}
    assert pair.decode.tokens_of("r") == []
    pair.settle()
    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 4)
    assert pair.decode.tokens_of("busy") == tokens_after([1, 2, 3], 30)


def test_pulled_sequences_that_wait_give_way_to_running_ones_and_are_recomputed() -> None:
    pair = Pair(max_num_seqs=1, blocks=10)
    pair.decode.submit("busy", [1, 2, 3], 30)
    pair.decode.turn()
    pair.decode.submit("r", PROMPT, 4, kv_transfer=pair.offer("r"))
    pair.decode.turn()
    pair.decode.service.finish(pair.pull_id())
    pair.settle()

    assert pair.decode.tokens_of("busy") == tokens_after([1, 2, 3], 30)
    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 4)
    assert pair.decode.first("r").recomputed
    assert pair.decode.scheduler.counters.preemptions == 1
    assert pair.is_empty


def test_choices_fork_after_the_pull(pair: Pair) -> None:
    sampling = SamplingParams(max_tokens=7, temperature=1.0, seed=3)
    pair.decode.submit("r", PROMPT, n=3, sampling=sampling, kv_transfer=pair.offer("r"))
    pair.settle()
    alone = FakeWorker("decode")
    alone.submit("r", PROMPT, n=3, sampling=sampling)
    alone.run()

    for choice in range(3):
        assert pair.decode.tokens_of("r", choice) == alone.tokens_of("r", choice)
    assert pair.is_empty


def test_an_abort_in_the_queue_lets_the_prefill_worker_free_its_blocks() -> None:
    pair = Pair(blocks=6)
    pair.decode.submit("busy", [9] * 9, 12)
    pair.decode.submit("r", PROMPT, 2, kv_transfer=pair.offer("r"))
    pair.decode.turn()
    pair.decode.tell(Abort(request_id="r"))
    pair.decode.turn()
    pair.settle()

    assert pair.decode.service.acknowledged == ["r"]
    assert pair.is_empty


def test_an_abort_during_a_pull_cancels_it_and_quarantines_its_blocks(pair: Pair) -> None:
    pair.decode.submit("r", PROMPT, 2, kv_transfer=pair.offer("r"))
    pair.decode.turn()
    running = pair.decode.service.pulls[pair.pull_id()]
    pair.decode.tell(AbortExternal(call_id="c", external_id="x-r"))
    pair.decode.turn()

    assert running.is_cancelled
    assert pair.decode.in_use == 0
    assert pair.decode.pool.counts().quarantined == 6
    pair.settle()
    assert pair.decode.pool.counts().quarantined == 0
    pair.decode.done("r")


@pytest.mark.parametrize("ending", ["finish", "reusable", "quarantined"])
def test_however_an_abandoned_pull_ends_its_blocks_come_back(pair: Pair, ending: str) -> None:
    pair.decode.submit("r", PROMPT, 2, kv_transfer=pair.offer("r"))
    pair.decode.turn()
    pull_id = pair.pull_id()
    pair.decode.tell(Abort(request_id="r"))
    pair.decode.turn()
    if ending == "finish":
        pair.decode.service.finish(pull_id)
    else:
        pair.decode.service.fail(pull_id, PullFailure.CANCELLED, reusable=ending == "reusable")
    pair.decode.run()
    if ending == "quarantined":
        assert pair.decode.pool.counts().quarantined == 6
        pair.decode.service.lift(pull_id)
        pair.decode.run()

    assert pair.decode.pool.counts().quarantined == pair.decode.scheduler.pulls == 0


@pytest.mark.parametrize("turns", range(6))
def test_an_abort_at_any_time_leaves_nothing_on_either_side(turns: int) -> None:
    pair = Pair(max_num_seqs=1)
    pair.decode.submit("busy", [1, 2, 3], 4)
    pair.decode.submit("r", PROMPT, 9, kv_transfer=pair.offer("r"))
    for turn in range(turns):
        pair.decode.turn()
        if turn == 1:
            pair.decode.service.finish_all()
    pair.decode.tell(Abort(request_id="r"))
    pair.decode.turn()
    pair.settle()
    for lease_id in list(pair.prefill.service.offers):
        pair.prefill.service.end_lease(lease_id, LeaseEnd.EXPIRED)
    pair.prefill.run()

    assert pair.decode.tokens_of("busy") == tokens_after([1, 2, 3], 4)
    assert pair.is_empty


def test_a_dead_prefill_worker_means_recomputing(pair: Pair) -> None:
    offer = msgspec.structs.replace(pair.offer("r"), remote_engine_id="gone")
    pair.decode.submit("r", PROMPT, 3, kv_transfer=offer)
    pair.settle()

    assert pair.decode.tokens_of("r") == tokens_after(PROMPT, 3)
    assert pair.decode.scheduler.counters.pulls_failed == {"stale_incarnation": 1}


@pytest.mark.parametrize(
    "field", ["remote_engine_id", "remote_request_id", "remote_host", "remote_port", "remote_block_ids"]
)
def test_a_hand_over_that_lacks_a_field_is_refused_by_its_name(pair: Pair, field: str) -> None:
    offer = msgspec.structs.replace(pair.offer("r"), **{field: None})
    pair.decode.submit("r", PROMPT, 3, kv_transfer=offer)
    pair.decode.run()

    assert pair.decode.failure("r").kind is FailureKind.BAD_REQUEST
    assert pair.decode.failure("r").param == f"kv_transfer_params.{field}"


@pytest.mark.parametrize("blocks", [[[1], [2]], [[-1, 2]]])
def test_block_ids_that_make_no_sense_are_refused(pair: Pair, blocks: list[list[int]]) -> None:
    offer = msgspec.structs.replace(pair.offer("r"), remote_block_ids=blocks)
    pair.decode.submit("r", PROMPT, 3, kv_transfer=offer)
    pair.decode.run()

    assert pair.decode.failure("r").param == "kv_transfer_params.remote_block_ids"


def test_a_decode_worker_offers_nothing(pair: Pair) -> None:
    pair.decode.submit("r", PROMPT, kv_transfer=KvTransferParams(do_remote_decode=True))
    pair.decode.run()

    assert pair.decode.failure("r").param == "kv_transfer_params.do_remote_decode"


def test_twenty_mixed_requests_at_once_get_the_models_tokens() -> None:
    pair = Pair(blocks=40, max_num_seqs=6)
    prompts = [[(i * k + k) % VOCABULARY for i in range(1 + 3 * k % 29)] for k in range(1, 21)]
    for k, prompt in enumerate(prompts):
        offer = pair.offer(f"r{k}", prompt) if k % 3 else None
        pair.decode.submit(f"r{k}", prompt, 12, kv_transfer=offer)
        pair.prefill.run()
        pair.decode.turn()
    pair.settle()

    for k, prompt in enumerate(prompts):
        assert pair.decode.tokens_of(f"r{k}") == tokens_after(prompt, 12)
    assert pair.is_empty

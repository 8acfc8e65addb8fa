"""A prefill worker holds what it offers until the lease ends, and not a moment longer."""

import pytest

from baton.engine.messages import Abort, AbortExternal, AbortResult, FailureKind, SamplingParams
from baton.kvtransfer.digest import token_digest
from baton.kvtransfer.params import KvTransferParams
from baton.kvtransfer.service import LeaseEnd
from support.fake_model import tokens_after
from support.fake_worker import REMOTE_DECODE, FakeWorker, hand_over

PROMPT = [(i * i + 3) % 60 for i in range(21)]


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker("prefill")


def test_the_answer_offers_the_blocks_of_the_whole_prompt(worker: FakeWorker) -> None:
    offer = hand_over(worker, "r", PROMPT)

    assert offer.do_remote_prefill
    assert not offer.do_remote_decode
    assert (offer.remote_engine_id, offer.remote_request_id) == ("prefill-engine", "r")
    assert (offer.remote_host, offer.remote_port) == worker.service.address
    assert (offer.remote_num_tokens, offer.remote_prefill_cached_tokens) == (21, 0)
    assert offer.baton_token_digest == token_digest(PROMPT)
    assert offer.remote_block_ids is not None
    assert len(offer.remote_block_ids[0]) == 6
    assert worker.service.offers["r"].offer.block_ids == tuple(offer.remote_block_ids[0])
    assert worker.tokens_of("r") == tokens_after(PROMPT, 1)


def test_the_report_says_who_prefilled_and_how_long_it_took(worker: FakeWorker) -> None:
    offer = hand_over(worker, "r", PROMPT)

    assert offer.baton_prefill is not None
    assert offer.baton_prefill.worker == "p:80"
    assert (offer.baton_prefill.queue_s, offer.baton_prefill.prefill_s) == (0.0, 1.0)


def test_decoding_is_left_to_others_whatever_the_request_says(worker: FakeWorker) -> None:
    sampling = SamplingParams(max_tokens=50, temperature=0.0)
    worker.submit("r", PROMPT, n=3, sampling=sampling, kv_transfer=REMOTE_DECODE)
    worker.run()

    assert worker.tokens_of("r") == tokens_after(PROMPT, 1)
    assert worker.tokens_of("r", 1) == []


@pytest.mark.parametrize("how", LeaseEnd)
def test_blocks_stay_in_use_until_the_lease_ends_however_it_ends(worker: FakeWorker, how: LeaseEnd) -> None:
    hand_over(worker, "r", PROMPT)
    worker.submit("other", PROMPT[::-1], 40)
    worker.run()
    assert (worker.in_use, worker.scheduler.leases) == (6, 1)

    worker.service.end_lease("r", how)
    worker.run()
    assert (worker.in_use, worker.scheduler.leases) == (0, 0)
    assert worker.scheduler.counters.leases_expired == (how is LeaseEnd.EXPIRED)


def test_after_the_lease_full_blocks_stay_cached(worker: FakeWorker) -> None:
    hand_over(worker, "a", PROMPT)
    worker.service.end_lease("a", LeaseEnd.ACKNOWLEDGED)
    worker.run()

    assert hand_over(worker, "b", PROMPT).remote_prefill_cached_tokens == 20


def test_two_leases_share_the_blocks_of_one_prompt(worker: FakeWorker) -> None:
    first, second = hand_over(worker, "a", PROMPT), hand_over(worker, "b", PROMPT)
    assert first.remote_block_ids is not None
    assert second.remote_block_ids is not None
    assert first.remote_block_ids[0][:5] == second.remote_block_ids[0][:5]

    worker.service.end_lease("a", LeaseEnd.ACKNOWLEDGED)
    worker.run()
    assert worker.in_use == 6


def test_prompts_wait_in_order_while_leases_hold_the_pool() -> None:
    worker = FakeWorker("prefill", blocks=13, prefix_cache=False)
    for name in "abcd":
        worker.submit(name, PROMPT, kv_transfer=REMOTE_DECODE)
    worker.run()
    assert sorted(worker.service.offers) == ["a", "b"]

    worker.service.end_lease("b", LeaseEnd.EXPIRED)
    worker.run()
    assert sorted(worker.service.offers) == ["a", "c"]


def test_an_abort_before_the_offer_frees_the_blocks() -> None:
    worker = FakeWorker("prefill", max_batched_tokens=8)
    worker.submit("r", PROMPT, kv_transfer=REMOTE_DECODE)
    worker.turn()
    worker.tell(Abort(request_id="r"))
    worker.run()

    assert worker.service.offers == {}
    assert worker.in_use == 0
    assert worker.done("r").kv_transfer is None


def test_an_abort_after_the_offer_releases_the_lease_but_not_the_blocks(worker: FakeWorker) -> None:
    hand_over(worker, "r", PROMPT)
    worker.tell(Abort(request_id="r"))
    worker.run()

    assert worker.service.released == ["r"]
    assert worker.in_use == 6


def test_an_abort_by_external_id_releases_its_leases_and_no_other(worker: FakeWorker) -> None:
    hand_over(worker, "r", PROMPT)
    hand_over(worker, "s", PROMPT)
    worker.tell(AbortExternal(call_id="c", external_id="x-r"))
    worker.run()

    assert worker.service.released == ["r"]
    assert AbortResult(call_id="c", aborted=0, released=1) in worker.inbox.sent


def test_an_id_that_names_a_lease_is_refused(worker: FakeWorker) -> None:
    hand_over(worker, "r", PROMPT)
    worker.submit("r", PROMPT, 1)
    worker.run()

    assert worker.failure("r").param == "request_id"


def test_a_prefill_worker_does_not_pull(worker: FakeWorker) -> None:
    worker.submit("r", PROMPT, kv_transfer=KvTransferParams(do_remote_prefill=True))
    worker.run()

    assert worker.failure("r").kind is FailureKind.BAD_REQUEST
    assert worker.failure("r").param == "kv_transfer_params.do_remote_prefill"


def test_a_request_without_a_hand_over_is_served_whole_beside_leases(worker: FakeWorker) -> None:
    hand_over(worker, "r", PROMPT)
    worker.submit("s", PROMPT, 9)
    worker.run()

    assert worker.tokens_of("s") == tokens_after(PROMPT, 9)

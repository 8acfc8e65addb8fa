"""Requests that one engine serves whole get the model's own tokens, and leave nothing behind."""

import pytest

from baton.engine.messages import (
    Abort,
    AbortExternal,
    AbortResult,
    FailureKind,
    FinishReason,
    SamplingParams,
    StepOutputs,
)
from support.fake_model import VOCABULARY, tokens_after
from support.fake_worker import FakeWorker

PROMPT = [5, 9, 2, 7, 7, 1, 3]


@pytest.fixture(params=["prefill", "decode", "prefill, run ahead", "decode, run ahead"])
def worker(request: pytest.FixtureRequest) -> FakeWorker:
    kind, *ahead = request.param.split(", ")
    return FakeWorker(kind, run_ahead=bool(ahead))


def prompt_of(length: int, seed: int = 1) -> list[int]:
    return [(seed * 31 + i * i * 7 + i * seed) % VOCABULARY for i in range(length)]


def test_a_request_gets_the_tokens_of_the_model(worker: FakeWorker) -> None:
    worker.submit("r", PROMPT, 6)
    worker.run()

    assert worker.tokens_of("r") == tokens_after(PROMPT, 6)
    assert worker.outputs_of("r")[-1].finish is FinishReason.LENGTH
    assert worker.done("r").kv_transfer is None
    assert worker.in_use == 0


def test_a_prompt_of_one_token_decodes_at_once(worker: FakeWorker) -> None:
    worker.submit("r", [3], 3)
    worker.run()

    assert worker.tokens_of("r") == tokens_after([3], 3)
    assert worker.model.prefilled_tokens == 0


def test_prompts_longer_than_the_budget_are_computed_in_chunks(worker: FakeWorker) -> None:
    prompts = {
        name: prompt_of(length, seed) for seed, (name, length) in enumerate([("a", 50), ("b", 3), ("c", 17)])
    }
    for name, prompt in prompts.items():
        worker.submit(name, prompt, 5)
    worker.run()

    for name, prompt in prompts.items():
        assert worker.tokens_of(name) == tokens_after(prompt, 5)
    assert worker.in_use == 0


def test_one_message_carries_the_tokens_of_all_sequences_of_a_step(worker: FakeWorker) -> None:
    for name in "abc":
        worker.submit(name, PROMPT[:4], 2)
    worker.run()

    steps = [message for message in worker.inbox.sent if isinstance(message, StepOutputs)]
    assert [len(step.outputs) for step in steps] == [3, 3]


def test_a_prompt_seen_before_is_not_computed_again(worker: FakeWorker) -> None:
    prompt = prompt_of(14)
    worker.submit("a", prompt, 4)
    worker.run()
    before = worker.model.prefilled_tokens
    worker.submit("b", prompt, 4)
    worker.submit("c", [*prompt[:9], 1, 2], 4)
    worker.run()

    assert worker.tokens_of("b") == worker.tokens_of("a") == tokens_after(prompt, 4)
    assert worker.tokens_of("c") == tokens_after([*prompt[:9], 1, 2], 4)
    assert (worker.first("a").cached_tokens, worker.first("b").cached_tokens) == (0, 12)
    assert worker.first("c").cached_tokens == 8
    assert worker.model.prefilled_tokens - before == 2 + 3
    counters = worker.scheduler.counters
    assert (counters.prefix_queries_tokens, counters.prefix_hits_tokens) == (39, 20)
    assert counters.prompt_tokens_local_compute == 39 - 20


def test_a_whole_hit_recomputes_only_the_last_token_in_a_block_of_its_own(worker: FakeWorker) -> None:
    prompt = prompt_of(12)
    worker.submit("a", prompt, 1)
    worker.run()
    before = worker.model.prefilled_tokens
    worker.submit("b", prompt, 6)
    worker.submit("c", prompt, 6)
    worker.run()

    assert worker.tokens_of("b") == worker.tokens_of("c") == tokens_after(prompt, 6)
    assert worker.first("b").cached_tokens == 11
    assert worker.model.prefilled_tokens == before


def test_generated_tokens_are_cached_too(worker: FakeWorker) -> None:
    worker.submit("a", PROMPT, 10)
    worker.run()
    follow_up = [*PROMPT, *tokens_after(PROMPT, 10), 4, 4]
    worker.submit("b", follow_up, 2)
    worker.run()

    assert worker.tokens_of("b") == tokens_after(follow_up, 2)
    assert worker.first("b").cached_tokens == 16


def test_another_salt_shares_nothing(worker: FakeWorker) -> None:
    prompt = prompt_of(12)
    worker.submit("a", prompt, 1, cache_salt="one")
    worker.run()
    worker.submit("b", prompt, 1, cache_salt="two")
    worker.run()

    assert worker.first("b").cached_tokens == 0


def test_without_a_prefix_cache_nothing_stays() -> None:
    worker = FakeWorker(prefix_cache=False)
    for name in "ab":
        worker.submit(name, prompt_of(12), 6)
        worker.run()

    assert worker.first("b").cached_tokens == 0
    assert worker.pool.counts().cached == 0
    assert worker.tokens_of("b") == tokens_after(prompt_of(12), 6)


@pytest.mark.parametrize("length", [7, 8, 1])
def test_choices_share_the_prompt_and_part_ways(worker: FakeWorker, length: int) -> None:
    prompt = prompt_of(length)
    worker.submit("r", prompt, n=3, sampling=SamplingParams(max_tokens=9, temperature=1.0, seed=5))
    worker.run()

    choices = [worker.tokens_of("r", choice) for choice in range(3)]
    assert all(len(tokens) == 9 for tokens in choices)
    assert len({tuple(tokens) for tokens in choices}) == 3
    assert worker.model.prefilled_tokens == (length if length > 1 else 0)
    assert worker.in_use == 0
    worker.done("r")


def test_greedy_choices_are_all_the_models_own(worker: FakeWorker) -> None:
    worker.submit("r", PROMPT, 9, n=4)
    worker.run()

    assert [worker.tokens_of("r", choice) for choice in range(4)] == [tokens_after(PROMPT, 9)] * 4


def test_a_full_pool_preempts_the_newest_and_changes_no_token() -> None:
    worker = FakeWorker(blocks=12)
    prompts = {name: prompt_of(6, seed) for seed, name in enumerate("abcd", start=1)}
    for name, prompt in prompts.items():
        worker.submit(name, prompt, 20)
    worker.run()

    for name, prompt in prompts.items():
        assert worker.tokens_of(name) == tokens_after(prompt, 20)
    assert worker.scheduler.counters.preemptions > 0
    assert worker.in_use == 0


def test_preempted_choices_draw_what_they_would_have_drawn() -> None:
    sampling = SamplingParams(max_tokens=24, temperature=1.0, seed=11, presence_penalty=0.5)
    roomy, narrow = FakeWorker(blocks=60), FakeWorker(blocks=14)
    for worker in (roomy, narrow):
        worker.submit("r", PROMPT, n=3, sampling=sampling)
        worker.submit("s", PROMPT[::-1], n=2, sampling=sampling)
        worker.run()

    assert narrow.scheduler.counters.preemptions > roomy.scheduler.counters.preemptions == 0
    for name, choice in (("r", 0), ("r", 1), ("r", 2), ("s", 0), ("s", 1)):
        assert narrow.tokens_of(name, choice) == roomy.tokens_of(name, choice)


def test_forks_that_copy_while_the_pool_is_full_lose_nothing() -> None:
    for blocks in range(6, 14):
        worker = FakeWorker(blocks=blocks)
        worker.submit("r", prompt_of(6), 9, n=4)
        worker.submit("s", prompt_of(6, seed=2), 9, n=3)
        worker.run()

        for name, n, seed in (("r", 4, 1), ("s", 3, 2)):
            choices = [worker.tokens_of(name, choice) for choice in range(n)]
            assert choices == [tokens_after(prompt_of(6, seed), 9)] * n
        assert worker.in_use == 0


def test_a_sequence_may_grow_to_the_whole_pool() -> None:
    worker = FakeWorker(blocks=5, block_tokens=4)
    worker.submit("a", PROMPT, 100)
    worker.submit("b", PROMPT[:3], 100)
    worker.run()

    assert worker.tokens_of("a") == tokens_after(PROMPT, 13)
    assert worker.tokens_of("b") == tokens_after(PROMPT[:3], 17)
    assert worker.outputs_of("a")[-1].finish is FinishReason.LENGTH


def test_the_oldest_prompt_is_not_starved_by_newer_ones() -> None:
    worker = FakeWorker("prefill", max_batched_tokens=8)
    worker.submit("long", prompt_of(40), 1)
    turns = 0
    while worker.tokens_of("long") == []:
        worker.submit(f"short-{turns}", prompt_of(5, seed=turns), 1)
        worker.turn()
        turns += 1

    assert turns == 5


def test_decoding_sequences_take_part_in_every_step_beside_a_long_prompt() -> None:
    worker = FakeWorker("decode", max_batched_tokens=16)
    worker.submit("a", PROMPT, 20)
    worker.turn()
    worker.submit("long", prompt_of(64), 2)
    for _ in range(10):
        worker.turn()

    assert len(worker.tokens_of("a")) == 11
    worker.run()
    assert worker.tokens_of("long") == tokens_after(prompt_of(64), 2)


def test_batches_are_padded_to_buckets() -> None:
    worker = FakeWorker("decode", max_num_seqs=8)
    for seed in range(3):
        worker.submit(f"r{seed}", prompt_of(3, seed), 4 + seed)
    worker.run()

    assert set(worker.model.decode_sizes) == {1, 2, 4}


def test_a_stop_token_ends_the_choice_and_is_reported() -> None:
    expected = tokens_after(PROMPT, 8)
    worker = FakeWorker()
    stop = expected[3]
    worker.submit("r", PROMPT, sampling=SamplingParams(max_tokens=8, temperature=0.0, stop_token_ids=(stop,)))
    worker.run()

    cut = expected.index(stop) + 1
    assert worker.tokens_of("r") == expected[:cut]
    last = worker.outputs_of("r")[-1]
    assert (last.finish, last.stop_token_id) == (FinishReason.STOP, stop)


def test_before_min_tokens_no_stop_token_is_drawn() -> None:
    stop = tokens_after(PROMPT, 1)[0]
    sampling = SamplingParams(max_tokens=6, min_tokens=3, temperature=0.0, stop_token_ids=(stop,))
    worker = FakeWorker()
    worker.submit("r", PROMPT, sampling=sampling)
    worker.run()

    assert stop not in worker.tokens_of("r")[:3]
    assert len(worker.tokens_of("r")) >= 4


@pytest.mark.parametrize(
    ("prompt", "changes", "param"),
    [
        ([], {}, "prompt"),
        (list(range(60)) * 3, {}, "prompt"),
        ([1, VOCABULARY], {}, "prompt"),
        ([1, -1], {}, "prompt"),
        ([1], {"n": 9}, "n"),
        ([1], {"max_tokens": 0}, "max_tokens"),
        ([1], {"sampling": SamplingParams(max_tokens=1, logit_bias={99: 1.0})}, "logit_bias"),
    ],
)
def test_what_can_never_be_served_is_refused_by_name(
    worker: FakeWorker, prompt: list[int], changes: dict[str, object], param: str
) -> None:
    worker.submit("r", prompt, **changes)  # type: ignore[arg-type]
    worker.run()

    assert (worker.failure("r").kind, worker.failure("r").param) == (FailureKind.BAD_REQUEST, param)
    assert worker.scheduler.requests == {}


def test_the_longest_prompt_that_fits_is_served() -> None:
    worker = FakeWorker(blocks=6, block_tokens=4)
    worker.submit("r", prompt_of(23), 5)
    worker.submit("s", prompt_of(24), 5)
    worker.run()

    assert worker.tokens_of("r") == tokens_after(prompt_of(23), 1)
    assert worker.failure("s").param == "prompt"


def test_a_queue_that_is_full_refuses() -> None:
    worker = FakeWorker(max_waiting=2)
    for name in "abc":
        worker.submit(name, PROMPT, 2)
    worker.run()

    assert worker.failure("c").kind is FailureKind.OVERLOADED
    assert worker.tokens_of("b") == tokens_after(PROMPT, 2)


def test_an_id_in_use_is_refused_and_the_first_goes_on(worker: FakeWorker) -> None:
    worker.submit("r", PROMPT, 3)
    worker.submit("r", [1, 2], 3)
    worker.run()

    assert worker.failure("r").param == "request_id"
    assert worker.tokens_of("r") == tokens_after(PROMPT, 3)


@pytest.mark.parametrize("turns", range(8))
def test_an_abort_at_any_time_leaves_no_block(worker: FakeWorker, turns: int) -> None:
    worker.submit("other", PROMPT, 12)
    worker.submit("r", prompt_of(40), 30, n=2)
    for _ in range(turns):
        worker.turn()
    worker.tell(Abort(request_id="r"))
    before = worker.outputs_of("r")
    worker.turn()

    assert worker.outputs_of("r") == before
    worker.run()
    worker.done("r")
    assert worker.tokens_of("other") == tokens_after(PROMPT, 12)
    assert worker.in_use == 0


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_one_choice_may_end_before_or_after_the_fork(worker: FakeWorker, turns: int) -> None:
    worker.submit("r", prompt_of(20), 6, n=3)
    for _ in range(turns):
        worker.turn()
    worker.tell(Abort(request_id="r", choice=0))
    worker.run()

    assert len(worker.tokens_of("r", 0)) < 6
    assert worker.tokens_of("r", 1) == worker.tokens_of("r", 2) == tokens_after(prompt_of(20), 6)
    assert worker.in_use == 0
    worker.done("r")


def test_an_abort_by_external_id_tells_those_who_wait(worker: FakeWorker) -> None:
    worker.submit("r", PROMPT, 30, n=2)
    worker.turn()
    worker.tell(AbortExternal(call_id="c", external_id="x-r"))
    worker.run()

    assert [worker.outputs_of("r", choice)[-1].finish for choice in (0, 1)] == [FinishReason.ABORT] * 2
    assert AbortResult(call_id="c", aborted=1, released=0) in worker.inbox.sent
    assert worker.in_use == 0


def test_an_abort_of_nobody_is_no_error(worker: FakeWorker) -> None:
    worker.tell(Abort(request_id="nobody"))
    worker.tell(AbortExternal(call_id="c", external_id="nobody"))
    worker.run()

    assert AbortResult(call_id="c", aborted=0, released=0) in worker.inbox.sent


def test_phases_say_how_long_a_request_waited_and_computed() -> None:
    worker = FakeWorker(max_batched_tokens=8, max_num_seqs=1)
    worker.submit("a", PROMPT, 3)
    worker.submit("b", prompt_of(20), 3)
    worker.run()

    phases = worker.first("b").phases
    assert phases.queue_s == 3.0
    assert phases.prefill_s == 2.0
    assert (phases.transfer_s, phases.first_step_s) == (None, None)

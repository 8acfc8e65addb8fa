"""Guessing changes how many tokens a step gives, and never which."""

import pytest

from baton.engine.messages import FinishReason, SamplingParams
from support.fake_model import FakeDraft, tokens_after
from support.fake_transfer import FakeNetwork
from support.fake_worker import FakeWorker, hand_over

PROMPTS = ([5], [1, 2, 3, 4], [9, 8, 7, 6, 5, 4, 3], list(range(20)))


def drafting(tokens: int = 2, skill: float = 1.0, **options: object) -> FakeWorker:
    return FakeWorker(layer=FakeDraft(skill), draft_tokens=tokens, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("skill", [0.0, 0.6, 1.0])
def test_greedy_tokens_are_those_without_guessing(tokens: int, skill: float) -> None:
    worker = drafting(tokens, skill)
    for name, prompt in enumerate(PROMPTS):
        worker.submit(f"r{name}", prompt, 17)
    worker.run()

    for name, prompt in enumerate(PROMPTS):
        assert worker.tokens_of(f"r{name}") == tokens_after(prompt, 17)
        assert worker.outputs_of(f"r{name}")[-1].finish is FinishReason.LENGTH
    assert worker.in_use == 0


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_right_guesses_give_a_step_so_many_tokens_more(tokens: int) -> None:
    worker = drafting(tokens, block_tokens=16)
    worker.submit("r", PROMPTS[1], 1 + 4 * (1 + tokens))
    worker.run()

    counters = worker.scheduler.counters
    assert counters.steps == 5
    assert counters.drafts == 4
    assert counters.draft_tokens == sum(counters.accepted_tokens.values()) == 4 * tokens


def test_wrong_guesses_are_counted_and_cost_no_token() -> None:
    worker = drafting(2, skill=0.0)
    worker.submit("r", PROMPTS[1], 9)
    worker.run()

    counters = worker.scheduler.counters
    assert counters.steps == 9
    assert counters.draft_tokens > 0
    assert sum(counters.accepted_tokens.values()) == 0


@pytest.mark.parametrize("count", range(1, 9))
def test_never_a_token_too_many(count: int) -> None:
    worker = drafting(3)
    worker.submit("r", PROMPTS[2], count)
    worker.run()

    assert worker.tokens_of("r") == tokens_after(PROMPTS[2], count)


@pytest.mark.parametrize("place", range(1, 8))
def test_a_stop_token_among_right_guesses_ends_the_answer(place: int) -> None:
    expected = tokens_after(PROMPTS[3], 8)
    stop = expected[place]
    worker = drafting(3, block_tokens=32)
    sampling = SamplingParams(max_tokens=20, temperature=0.0, stop_token_ids=(stop,))
    worker.submit("r", PROMPTS[3], sampling=sampling)
    worker.run()

    assert worker.tokens_of("r") == expected[: expected.index(stop) + 1]
    counters = worker.scheduler.counters
    at = expected.index(stop)
    assert sum(counters.accepted_tokens.values()) == at - at // 4, "every fourth token is not guessed"
    last = worker.outputs_of("r")[-1]
    assert (last.finish, last.stop_token_id) == (FinishReason.STOP, stop)
    assert worker.in_use == 0


def test_an_answer_fills_the_longest_sequence_to_its_last_place() -> None:
    worker = drafting(3, blocks=5)
    worker.submit("r", PROMPTS[1], 100)
    worker.run()

    assert worker.tokens_of("r") == tokens_after(PROMPTS[1], 16)


def test_choices_part_and_are_guessed_for_each() -> None:
    worker = drafting(2, skill=0.7)
    sampling = SamplingParams(max_tokens=12, temperature=1.0, seed=3)
    plain = FakeWorker()
    for one in (worker, plain):
        one.submit("r", PROMPTS[2], n=3, sampling=sampling)
        one.run()

    assert [worker.tokens_of("r", choice) for choice in range(3)] == [
        plain.tokens_of("r", choice) for choice in range(3)
    ]
    assert sum(worker.scheduler.counters.accepted_tokens.values()) > 0


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(max_tokens=20, temperature=0.8, seed=1, top_p=0.9, logprobs=3),
        SamplingParams(max_tokens=20, temperature=1.5, seed=2, top_k=5, min_tokens=9, stop_token_ids=(1, 2)),
        SamplingParams(max_tokens=20, temperature=0.5, seed=3, min_p=0.1, logit_bias={7: 4.0}),
        SamplingParams(max_tokens=20, temperature=0.0, logprobs=2, min_tokens=20, stop_token_ids=(9, 30)),
        SamplingParams(max_tokens=20, temperature=1.0, seed=4, presence_penalty=1.0, frequency_penalty=0.5),
        SamplingParams(max_tokens=20, temperature=0.0, repetition_penalty=1.7),
    ],
)
def test_any_parameters_give_the_same_tokens_and_logprobs(sampling: SamplingParams) -> None:
    worker, plain = drafting(3, skill=0.7), FakeWorker()
    for one in (worker, plain):
        for name, prompt in enumerate(PROMPTS):
            one.submit(f"r{name}", prompt, sampling=sampling)
        one.run()

    for name in range(len(PROMPTS)):
        assert worker.tokens_of(f"r{name}") == plain.tokens_of(f"r{name}")
        assert _logprobs(worker, f"r{name}") == _logprobs(plain, f"r{name}")


def test_penalised_sequences_are_not_guessed_for() -> None:
    worker = drafting()
    worker.submit("r", PROMPTS[1], sampling=SamplingParams(max_tokens=9, repetition_penalty=1.2))
    worker.run()

    assert worker.scheduler.counters.drafts == 0


def test_sampled_guesses_are_accepted_at_any_temperature_where_draft_and_model_agree() -> None:
    worker = drafting(2)
    worker.submit("r", PROMPTS[1], sampling=SamplingParams(max_tokens=30, temperature=5.0, seed=8))
    worker.run()

    counters = worker.scheduler.counters
    assert sum(counters.accepted_tokens.values()) == counters.draft_tokens > 0


def test_a_row_without_finite_logits_fails_only_the_request_that_reaches_it() -> None:
    expected = tokens_after(PROMPTS[1], 9)
    worker = drafting(2)
    worker.model.blinded_by = expected[5]
    worker.submit("r", PROMPTS[1], 9)
    worker.submit("other", [60], 3)
    worker.run()

    assert worker.tokens_of("r") == expected[: expected.index(expected[5]) + 1]
    assert "finite" in worker.failure("r").message
    assert worker.tokens_of("other") == tokens_after([60], 3)


def test_preempted_sequences_go_on_where_they_were() -> None:
    worker = drafting(3, skill=0.7, blocks=10, prefix_cache=False)
    for seed in range(4):
        worker.submit(f"r{seed}", [seed, 5, 6, 7, 8], 16)
    worker.run()

    assert worker.scheduler.counters.preemptions > 0
    for seed in range(4):
        assert worker.tokens_of(f"r{seed}") == tokens_after([seed, 5, 6, 7, 8], 16)


def test_shared_prefixes_carry_the_drafts_kv() -> None:
    worker = drafting(2)
    for name in range(3):
        worker.submit(f"r{name}", PROMPTS[3], 10)
        worker.run()

    counters = worker.scheduler.counters
    assert worker.first("r2").cached_tokens > 0
    assert sum(counters.accepted_tokens.values()) == counters.draft_tokens > 0


def test_a_handed_over_prompt_brings_the_drafts_kv() -> None:
    network = FakeNetwork()
    prefill = drafting(2, kind="prefill", network=network)
    decode = drafting(2, network=network)
    decode.submit("r", PROMPTS[3], 11, kv_transfer=hand_over(prefill, "r", PROMPTS[3]))
    decode.turn()
    decode.service.finish_all()
    decode.run()

    counters = decode.scheduler.counters
    assert decode.tokens_of("r") == tokens_after(PROMPTS[3], 11)
    assert not decode.first("r").recomputed
    assert sum(counters.accepted_tokens.values()) == counters.draft_tokens > 0
    assert prefill.scheduler.counters.drafts == 0


def _logprobs(worker: FakeWorker, request_id: str) -> list[object]:
    return [entry for output in worker.outputs_of(request_id) for entry in output.logprobs or ()]

"""The sampler gives each row what the definition gives it, whatever else is in the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baton.engine.messages import SamplingParams
from baton.engine.sampler import SampledToken, Sampler
from baton.engine.sampling_state import SamplingState

from .sampling_reference import adjusted_row, filtered_probabilities

torch.set_num_threads(1)
VOCAB = 61
CPU = torch.device("cpu")


def state(
    params: SamplingParams,
    *,
    prompt: list[int] | None = None,
    generated: list[int] | None = None,
    choice: int = 0,
    fallback_seed: int = 1,
) -> SamplingState:
    return SamplingState(
        params, prompt or [], choice=choice, fallback_seed=fallback_seed, generated=generated or []
    )


def greedy(**fields: object) -> SamplingParams:
    return SamplingParams(max_tokens=100, temperature=0.0, **fields)  # type: ignore[arg-type]


def drawing(**fields: object) -> SamplingParams:
    return SamplingParams(max_tokens=100, **fields)  # type: ignore[arg-type]


def random_logits(rows: int, vocab: int = VOCAB, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def sample(sampler: Sampler, logits: Tensor, states: list[SamplingState]) -> list[SampledToken]:
    sampled = sampler.draw(logits, states).tokens()
    return [token for token in sampled if token is not None]


def tokens(logits: Tensor, states: list[SamplingState]) -> list[int]:
    return [sampled.token_id for sampled in sample(Sampler(logits.shape[-1], CPU), logits, states)]


def test_greedy_takes_the_best_and_the_lowest_id_of_equals() -> None:
    logits = torch.zeros(3, VOCAB)
    logits[1, [7, 50]] = 2.0
    logits[2, :] = -5.0

    assert tokens(logits, [state(greedy()) for _ in range(3)]) == [0, 7, 0]


def test_temperatures_below_1e_5_are_greedy() -> None:
    logits = random_logits(1)

    assert tokens(logits, [state(drawing(temperature=9e-6))]) == [int(logits.argmax())]


def test_padding_rows_are_ignored_even_if_they_are_nan() -> None:
    logits = random_logits(4)
    logits[2:] = float("nan")

    assert tokens(logits, [state(greedy()), state(greedy())]) == logits[:2].argmax(-1).tolist()


def test_no_states_give_no_tokens() -> None:
    assert tokens(random_logits(2), []) == []


def test_the_logits_are_left_as_they_were() -> None:
    logits = random_logits(2)
    before = logits.clone()
    bent = greedy(logit_bias={3: 50.0}, repetition_penalty=2.0, frequency_penalty=1.0)

    tokens(logits, [state(bent, prompt=[1, 2], generated=[3]), state(drawing(top_k=3))])

    assert torch.equal(logits, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("params", [greedy(), drawing(), drawing(top_p=0.5), greedy(logit_bias={1: 2.0})])
def test_a_row_that_is_not_finite_draws_none_and_the_others_what_they_would_have_drawn(
    bad: float, params: SamplingParams
) -> None:
    logits = random_logits(3)
    logits[1, 13] = bad
    states = [state(params, fallback_seed=row) for row in range(3)]
    sampler = Sampler(VOCAB, CPU)

    one, none, other = sampler.draw(logits, states).tokens()

    assert none is None
    assert one is not None
    assert other is not None
    alone = tokens(logits[:1], states[:1]) + tokens(logits[2:], states[2:])
    assert [one.token_id, other.token_id] == alone


def test_a_row_without_any_allowed_token_draws_none() -> None:
    forbidden = greedy(min_tokens=1, stop_token_ids=tuple(range(VOCAB)))
    sampler = Sampler(VOCAB, CPU)

    free, barred = sampler.draw(random_logits(2), [state(greedy()), state(forbidden)]).tokens()

    assert free is not None
    assert barred is None


def test_a_row_ahead_of_its_state_draws_the_token_after_the_unknown_one() -> None:
    params = drawing(seed=5)
    logits = random_logits(1)
    behind, ahead = state(params), state(params)
    behind.append(7)
    sampler = Sampler(VOCAB, CPU)

    [expected] = sampler.draw(logits, [behind]).tokens()
    [got] = sampler.draw(logits, [ahead], [True]).tokens()

    assert got == expected


@pytest.mark.parametrize(
    ("logits", "states"),
    [
        (torch.zeros(1, VOCAB, dtype=torch.float64), 1),
        (torch.zeros(1, VOCAB + 1), 1),
        (torch.zeros(1, VOCAB), 2),
    ],
)
def test_logits_of_the_wrong_type_or_shape_are_refused(logits: Tensor, states: int) -> None:
    with pytest.raises(ValueError, match="logits"):
        Sampler(VOCAB, CPU).draw(logits, [state(greedy())] * states)


def test_stop_tokens_come_only_after_min_tokens() -> None:
    params = greedy(min_tokens=2, stop_token_ids=(5, 9))
    logits = torch.zeros(1, VOCAB)
    logits[0, 5], logits[0, 9], logits[0, 30] = 9.0, 8.0, 1.0
    sampler, sequence, got = Sampler(VOCAB, CPU), state(params), []
    for _ in range(3):
        got.append(sample(sampler, logits, [sequence])[0].token_id)
        sequence.append(got[-1])

    assert got == [30, 30, 5]


def test_logit_bias_lifts_and_bans_tokens() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, 4] = 1.0

    assert tokens(logits, [state(greedy(logit_bias={8: 100.0})), state(greedy(logit_bias={4: -100.0}))]) == [
        8,
        0,
    ]


def test_penalties_follow_the_tokens_as_they_are_generated() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 0], logits[0, 1], logits[0, 2] = 3.0, 2.5, 1.2
    sampler, sequence, got = Sampler(VOCAB, CPU), state(greedy(frequency_penalty=0.7)), []
    for _ in range(5):
        got.append(sample(sampler, logits, [sequence])[0].token_id)
        sequence.append(got[-1])

    # Logits of tokens 0 and 1 before each draw: 3/2.5, 2.3/2.5, 2.3/1.8, 1.6/1.8, 1.6/1.1.
    assert got == [0, 1, 0, 1, 0]


sampling_params = st.builds(
    SamplingParams,
    max_tokens=st.just(100),
    min_tokens=st.integers(0, 4),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.none() | st.integers(1, VOCAB + 5),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.6]),
    presence_penalty=st.sampled_from([0.0, -1.0, 0.8]),
    frequency_penalty=st.sampled_from([0.0, -0.4, 1.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32), max_size=4),
    seed=st.none() | st.integers(-(2**63), 2**64),
    stop_token_ids=st.lists(st.integers(0, VOCAB - 1), max_size=3).map(tuple),
    logprobs=st.none() | st.integers(0, 5),
)
token_lists = st.lists(st.integers(0, VOCAB - 1), max_size=8)
sequences = st.tuples(sampling_params, token_lists, token_lists)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batch=st.lists(sequences, min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_every_row_of_a_mixed_batch_gets_what_the_definition_allows(
    batch: list[tuple[SamplingParams, list[int], list[int]]], seed: int
) -> None:
    logits = random_logits(len(batch) + 1, seed=seed)
    states = [state(params, prompt=prompt, generated=out) for params, prompt, out in batch]
    sampled = sample(Sampler(VOCAB, CPU), logits, states)

    for row, (params, prompt, out) in enumerate(batch):
        token = sampled[row].token_id
        adjusted = adjusted_row(logits[row].double().numpy(), params, prompt, out)
        if params.temperature == 0.0:
            assert token == int(adjusted.argmax())
        else:
            assert filtered_probabilities(adjusted, params)[token] > 0
        assert (sampled[row].logprob is None) == (params.logprobs is None)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(batch=st.lists(sequences, min_size=2, max_size=6), seed=st.integers(0, 2**32))
def test_a_row_gets_the_same_token_alone_and_anywhere_in_a_batch(
    batch: list[tuple[SamplingParams, list[int], list[int]]], seed: int
) -> None:
    logits = random_logits(len(batch), seed=seed)
    states = [
        state(params, prompt=prompt, generated=out, fallback_seed=row)
        for row, (params, prompt, out) in enumerate(batch)
    ]
    together = sample(Sampler(VOCAB, CPU), logits, states)
    backwards = sample(Sampler(VOCAB, CPU), logits.flip(0), states[::-1])

    assert together == backwards[::-1]
    assert [sampled.token_id for sampled in together] == [
        tokens(logits[row : row + 1], [states[row]])[0] for row in range(len(batch))
    ]


@pytest.mark.parametrize("vocab", [1_000, 5_000])
def test_wide_vocabularies_draw_the_same_alone_and_with_others(vocab: int) -> None:
    flat, peaked = torch.linspace(0.0, -0.5, vocab), torch.linspace(0.0, -400.0, vocab)
    logits = torch.stack([flat, peaked, flat, peaked, flat])
    params = [
        drawing(top_p=0.9),
        drawing(top_p=0.9),
        drawing(top_k=600, top_p=0.7),
        drawing(top_k=5),
        drawing(),
    ]
    for draw_index in range(20):
        states = [state(one, generated=[0] * draw_index, fallback_seed=row) for row, one in enumerate(params)]
        alone = [tokens(logits[row : row + 1], [states[row]])[0] for row in range(len(states))]

        assert tokens(logits, states) == alone
        assert alone[2] < 600
        assert alone[3] < 5


def test_a_sequence_rebuilt_after_preemption_continues_with_the_same_tokens() -> None:
    params = drawing(seed=7, top_p=0.95, repetition_penalty=1.2, presence_penalty=0.5)
    sampler, prompt = Sampler(VOCAB, CPU), [1, 2, 3]
    undisturbed = state(params, prompt=prompt)
    expected: list[int] = []
    for step in range(12):
        expected.append(sample(sampler, random_logits(1, seed=step), [undisturbed])[0].token_id)
        undisturbed.append(expected[-1])

    rebuilt = state(params, prompt=prompt, generated=expected[:5], fallback_seed=99)
    continued = list(expected[:5])
    for step in range(5, 12):
        continued.append(sample(sampler, random_logits(1, seed=step), [rebuilt])[0].token_id)
        rebuilt.append(continued[-1])

    assert continued == expected


def test_a_changed_batch_is_staged_anew() -> None:
    sampler, logits = Sampler(VOCAB, CPU), random_logits(2)
    banned = state(greedy(logit_bias={int(logits[0].argmax()): -100.0}))
    free = state(greedy())

    first = [sampled.token_id for sampled in sample(sampler, logits[:1], [banned])]
    second = [sampled.token_id for sampled in sample(sampler, logits[:1], [free])]

    assert first != second == [int(logits[0].argmax())]


@pytest.mark.parametrize(
    "params",
    [
        drawing(),
        drawing(temperature=0.5),
        drawing(temperature=1.5, top_k=4),
        drawing(top_p=0.8),
        drawing(min_p=0.1),
        drawing(temperature=1.3, min_p=0.02, top_k=7, top_p=0.9),
    ],
)
def test_drawn_tokens_follow_the_filtered_softmax(params: SamplingParams) -> None:
    """Chi-square over 20,000 numbers of one stream; 0.001 of such tests would exceed the bound by chance."""
    draws, vocab = 20_000, 12
    row = random_logits(1, vocab=vocab, seed=3)
    members = [state(params, fallback_seed=11) for _ in range(draws)]
    for index, member in enumerate(members):
        member.generated = index
    observed = np.bincount(tokens(row.expand(draws, vocab).contiguous(), members), minlength=vocab)
    expected = filtered_probabilities(row[0].double().numpy(), params) * draws

    assert observed[expected == 0].sum() == 0
    kept = expected > 5
    chi_square = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    degrees = kept.sum() - 1
    # Wilson-Hilferty: the 99.9% quantile of chi-square.
    assert chi_square < degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees))) ** 3


def test_logprobs_are_the_log_softmax_of_the_raw_logits() -> None:
    logits = random_logits(3)
    bent = greedy(logprobs=4, logit_bias={5: 100.0}, repetition_penalty=3.0)
    sampled = sample(
        Sampler(VOCAB, CPU),
        logits,
        [state(bent, prompt=[1, 2]), state(greedy()), state(drawing(temperature=0.2, logprobs=0))],
    )
    expected = logits.double().log_softmax(-1)

    biased, silent, chosen_only = (one.logprob for one in sampled)
    assert biased is not None
    assert chosen_only is not None
    assert silent is None
    assert biased.token_id == 5
    assert biased.logprob == pytest.approx(float(expected[0, 5]), abs=1e-5)
    best = expected[0].topk(4)
    assert [one.token_id for one in biased.top] == best.indices.tolist()
    assert [one.logprob for one in biased.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert chosen_only.top == []
    assert chosen_only.logprob == pytest.approx(float(expected[2, sampled[2].token_id]), abs=1e-5)


def test_candidates_of_equal_logprob_are_listed_by_id_and_excluded_tokens_not_at_all() -> None:
    logits = torch.full((1, VOCAB), float("-inf"))
    logits[0, [40, 3, 17]] = torch.tensor([1.0, 1.0, -2.0])
    logprob = sample(Sampler(VOCAB, CPU), logits, [state(greedy(logprobs=5))])[0].logprob

    assert logprob is not None
    assert [one.token_id for one in logprob.top] == [3, 40, 17]


def test_choices_of_one_seeded_request_differ_and_repeat() -> None:
    logits = torch.zeros(1, 5_000)
    first, second = (tokens(logits, [state(drawing(seed=5), choice=choice)]) for choice in (0, 1))

    assert first != second
    assert first == tokens(logits, [state(drawing(seed=5), fallback_seed=1234)])


def test_unseeded_requests_differ_by_their_fallback_seed() -> None:
    logits = torch.zeros(1, 5_000)

    assert len({tokens(logits, [state(drawing(), fallback_seed=seed)])[0] for seed in range(20)}) > 15

"""Bias and penalties change exactly the logits they should, by exactly what the formulas say."""

import numpy as np
import torch

from baton.engine.messages import SamplingParams
from baton.engine.penalties import Bias, Penalised, TokenCounts, adjust_logits

from .sampling_reference import adjusted_row

VOCAB = 200
NO_BIAS = Bias(rows=[], token_ids=[], values=[])


def params(**fields: float) -> SamplingParams:
    return SamplingParams(max_tokens=1, **fields)  # type: ignore[arg-type]


def test_rows_equal_the_reference_whatever_their_mix() -> None:
    generator = np.random.default_rng(0)
    mixes = [
        params(repetition_penalty=1.7),
        params(frequency_penalty=0.3),
        params(presence_penalty=-0.9),
        params(repetition_penalty=0.6, frequency_penalty=-0.2, presence_penalty=1.1),
    ]
    prompts = [generator.integers(0, VOCAB, 50).tolist() for _ in mixes]
    outputs = [generator.integers(0, VOCAB, length).tolist() for length in (0, 3, 90, 500)]
    logits = torch.from_numpy(generator.normal(size=(len(mixes) + 1, VOCAB)).astype(np.float32))
    penalised = []
    for row, (mix, prompt, output) in enumerate(zip(mixes, prompts, outputs, strict=True)):
        counts = TokenCounts(prompt if mix.repetition_penalty != 1.0 else [])
        for token in output:
            counts.add(token)
        penalised.append(Penalised(row, mix, counts))

    adjusted = adjust_logits(logits, NO_BIAS, penalised)

    for row, (mix, prompt, output) in enumerate(zip(mixes, prompts, outputs, strict=True)):
        expected = adjusted_row(logits[row].double().numpy(), mix, prompt, output)
        torch.testing.assert_close(adjusted[row].double(), torch.from_numpy(expected), atol=1e-4, rtol=1e-5)
    assert torch.equal(adjusted[-1], logits[-1])


def test_prompt_tokens_pay_for_repetition_but_not_for_presence() -> None:
    counts = TokenCounts([3, 3, 4])
    counts.add(5)
    both = params(repetition_penalty=2.0, presence_penalty=1.0)

    adjusted = adjust_logits(torch.full((1, 8), 6.0), NO_BIAS, [Penalised(0, both, counts)])

    assert adjusted.tolist() == [[6, 6, 6, 3, 3, 2, 6, 6]]


def test_biases_of_one_token_add_up_and_a_mask_wins() -> None:
    infinity = float("inf")
    bias = Bias(rows=[0, 0, 1, 1], token_ids=[2, 2, 2, 2], values=[1.0, 2.0, 50.0, -infinity])

    assert adjust_logits(torch.zeros(2, 3), bias, []).tolist() == [[0, 0, 3], [0, 0, -infinity]]


def test_counts_grow_with_the_output() -> None:
    counts = TokenCounts([9])
    for token in range(1000):
        counts.add(token % 300)

    by_id = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    assert by_id == {token: 4.0 if token < 100 else 3.0 for token in range(300)}

"""Sampled tokens have the model's distribution, however guesses are distributed.

Pearson's chi-square over the first two tokens of many seeded requests. The second is the first that a guess
is made about; the draft is surer of itself than the model, so that many guesses are wrong. The seeds are
fixed, so that the figures are always the same.
"""

import math
from collections import Counter

from baton.engine.messages import SamplingParams
from support.fake_model import FakeDraft, logits_after
from support.fake_worker import FakeWorker

PROMPT = [3, 1, 4, 1, 5]
REQUESTS = 800
TOP_K = 4
TEMPERATURE = 1.6
BOUND = 44.3
"""The 0.9999 quantile for 15 degrees of freedom: 16 pairs of tokens are possible."""


class SureDraft(FakeDraft):
    """Knows the model's logits and exaggerates them."""

    def logits(self, history: list[int]) -> list[float]:
        return [3.0 * logit for logit in logits_after(history)]


def likeliest(logits: list[float]) -> dict[int, float]:
    """The distribution that is sampled from."""
    best = sorted(range(len(logits)), key=lambda token: -logits[token])[:TOP_K]
    weights = {token: math.exp(logits[token] / TEMPERATURE) for token in best}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


def statistic(observed: Counter[tuple[int, ...]], expected: dict[tuple[int, int], float]) -> float:
    assert set(observed) <= set(expected)
    counts = {cell: REQUESTS * probability for cell, probability in expected.items()}
    return sum((observed[cell] - count) ** 2 / count for cell, count in counts.items())


def test_accepted_and_corrected_tokens_are_distributed_as_the_models() -> None:
    worker = FakeWorker(layer=SureDraft(1.0), draft_tokens=1, block_tokens=16, max_waiting=REQUESTS)
    for seed in range(REQUESTS):
        sampling = SamplingParams(max_tokens=3, temperature=TEMPERATURE, top_k=TOP_K, seed=seed)
        worker.submit(f"r{seed}", PROMPT, sampling=sampling)
    worker.run()

    observed = Counter(tuple(worker.tokens_of(f"r{seed}")[:2]) for seed in range(REQUESTS))
    model, if_every_guess_were_taken = {}, {}
    for first, p in likeliest(logits_after(PROMPT)).items():
        history = [*PROMPT, first]
        model |= {(first, token): p * q for token, q in likeliest(logits_after(history)).items()}
        guessed = likeliest(SureDraft(1.0).logits(history))
        if_every_guess_were_taken |= {(first, token): p * q for token, q in guessed.items()}

    counters = worker.scheduler.counters
    assert 0.2 < counters.accepted_tokens[0] / counters.draft_tokens < 0.9
    assert statistic(observed, model) < BOUND
    assert statistic(observed, if_every_guess_were_taken) > 5 * BOUND

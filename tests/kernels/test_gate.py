"""Routing picks the experts and weights that a loop over tokens, groups and experts picks."""

import math

import pytest
import torch
from torch import Tensor

from baton.kernels.gate import gate_sigmoid_grouped, gate_softmax_grouped

EXPERTS, TOKENS = 12, 9
GROUPS = [(1, 1), (4, 2), (3, 1), (4, 4)]


def logits() -> Tensor:
    return torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(3)) * 2


def eligible(group_scores: list[float], top_groups: int) -> set[int]:
    """Experts of the best groups."""
    best = sorted(range(len(group_scores)), key=lambda group: -group_scores[group])[:top_groups]
    size = EXPERTS // len(group_scores)
    return {group * size + i for group in best for i in range(size)}


def as_maps(weights: Tensor, ids: Tensor) -> list[dict[int, float]]:
    return [dict(zip(i, w, strict=True)) for i, w in zip(ids.tolist(), weights.tolist(), strict=True)]


@pytest.mark.parametrize(("num_groups", "top_groups"), GROUPS)
@pytest.mark.parametrize("normalise", [True, False])
def test_sigmoid_routing_chooses_with_the_bias_and_weighs_without(
    num_groups: int, top_groups: int, normalise: bool
) -> None:
    bias = torch.linspace(-0.5, 0.5, EXPERTS)
    size = EXPERTS // num_groups
    expected = []
    for row in logits().tolist():
        scores = [1 / (1 + math.exp(-value)) for value in row]
        biased = [score + b for score, b in zip(scores, bias.tolist(), strict=True)]
        groups = [sum(sorted(biased[g * size : (g + 1) * size])[-2:]) for g in range(num_groups)]
        chosen = sorted(eligible(groups, top_groups), key=lambda e: -biased[e])[:3]
        total = sum(scores[e] for e in chosen) if normalise else 1.0
        expected.append({e: scores[e] / total * 2.5 for e in chosen})

    actual = gate_sigmoid_grouped(
        logits(),
        bias,
        top_k=3,
        num_groups=num_groups,
        top_groups=top_groups,
        normalise=normalise,
        scale=2.5,
    )

    for got, want in zip(as_maps(*actual), expected, strict=True):
        assert got == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize(("num_groups", "top_groups"), GROUPS)
@pytest.mark.parametrize("normalise", [True, False])
def test_softmax_routing_ranks_groups_by_their_best_expert_and_scales_what_it_does_not_normalise(
    num_groups: int, top_groups: int, normalise: bool
) -> None:
    size = EXPERTS // num_groups
    expected = []
    for row in logits().tolist():
        total = sum(math.exp(value) for value in row)
        scores = [math.exp(value) / total for value in row]
        groups = [max(scores[g * size : (g + 1) * size]) for g in range(num_groups)]
        chosen = sorted(eligible(groups, top_groups), key=lambda e: -scores[e])[:3]
        factor = 1 / sum(scores[e] for e in chosen) if normalise else 16.0
        expected.append({e: scores[e] * factor for e in chosen})

    actual = gate_softmax_grouped(
        logits(), top_k=3, num_groups=num_groups, top_groups=top_groups, normalise=normalise, scale=16.0
    )

    for got, want in zip(as_maps(*actual), expected, strict=True):
        assert got == pytest.approx(want, abs=1e-5)

"""Rotary embedding turns each pair by its angle, in both pairings."""

import math

import pytest
import torch

from baton.kernels.rope import rope_halves_, rope_interleaved_

ANGLES = torch.tensor([[0.5, -1.25], [2.0, 0.1], [0.0, 3.0]])  # [tokens, pairs]
TURNS = torch.polar(torch.ones(3, 2), ANGLES)


def turned(first: float, second: float, angle: float) -> tuple[float, float]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return first * cosine - second * sine, first * sine + second * cosine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interleaved_pairs_are_neighbours(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = [
        [value for pair in range(2) for value in turned(*row[2 * pair : 2 * pair + 2], ANGLES[t][pair])]
        for t, row in enumerate(x.tolist())
    ]

    rope_interleaved_(x, TURNS)

    torch.testing.assert_close(x, torch.tensor(expected).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_pairs_are_half_a_head_apart(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    pairs = [[turned(row[p], row[p + 2], ANGLES[t][p]) for p in range(2)] for t, row in enumerate(x.tolist())]
    expected = [[first for first, _ in row] + [second for _, second in row] for row in pairs]

    rope_halves_(x, TURNS)

    torch.testing.assert_close(x, torch.tensor(expected).to(dtype))


def test_all_heads_of_a_token_turn_alike_and_a_slice_leaves_the_rest() -> None:
    x = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2))
    before = x.clone()

    rope_interleaved_(x[..., 2:], TURNS.unsqueeze(1))

    assert torch.equal(x[..., :2], before[..., :2])
    for head in range(5):
        alone = before[:, head, 2:].contiguous()
        rope_interleaved_(alone, TURNS)
        torch.testing.assert_close(x[:, head, 2:], alone)

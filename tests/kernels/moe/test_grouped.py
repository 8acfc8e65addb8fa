"""Frames of fixed shapes give what a loop over tokens and experts gives, whichever layout they have."""

import pytest
import torch

from baton.bench.gpu.error import relative_error
from baton.kernels.fp8 import dequantise_blocks, quantise_blocks
from baton.kernels.moe.experts import ExpertWeights
from baton.kernels.moe.experts_grouped import ALIGNMENT
from baton.kernels.moe.grouped import GroupedMoe
from baton.kernels.moe.routes import contiguous_capacity
from support.moe_cases import Layer

LAYER = Layer()
FEW, MANY = 5, 400


@pytest.mark.parametrize("tokens", [0, 1, FEW, MANY])
def test_all_experts_here(tokens: int) -> None:
    x, ids, weights = LAYER.routing(tokens, seed=tokens)

    out = GroupedMoe().run(x, ids, weights, LAYER.weights())

    torch.testing.assert_close(out, LAYER.answer(x, ids, weights))


@pytest.mark.parametrize("tokens", [FEW, MANY])
def test_shares_of_the_experts_add_up(tokens: int) -> None:
    x, ids, weights = LAYER.routing(tokens, seed=tokens)

    parts = [GroupedMoe().run(x, ids, weights, LAYER.weights(owned)) for owned in (range(3), range(3, 8))]

    torch.testing.assert_close(sum(parts), LAYER.answer(x, ids, weights))


@pytest.mark.parametrize("tokens", [FEW, MANY])
def test_what_a_dead_row_holds_reaches_no_other(tokens: int) -> None:
    x, ids, weights = LAYER.routing(tokens, seed=tokens)
    ids[-1] = -1
    dirty = x.clone()
    dirty[-1] = float("nan")

    out = GroupedMoe().run(dirty, ids, weights, LAYER.weights())

    torch.testing.assert_close(out, LAYER.answer(x, ids, weights))


def test_these_numbers_of_tokens_are_on_both_sides_of_the_choice() -> None:
    def frames(tokens: int) -> tuple[int, int]:
        capacity = contiguous_capacity(tokens * LAYER.top_k, LAYER.experts, ALIGNMENT)
        return tokens * LAYER.experts, capacity

    assert frames(FEW)[0] <= frames(FEW)[1]
    assert frames(MANY)[0] > frames(MANY)[1]


FP8_LAYER = Layer(experts=4, hidden=256, width=136, top_k=2)
FP8_TOLERANCE = 8e-2
"""Two products, each of activations rounded to FP8: 2^-4 of a value at most, and averaged over a row."""


@pytest.mark.parametrize("tokens", [1, FEW, MANY])
def test_fp8_experts_compute_what_their_expanded_weights_do(tokens: int) -> None:
    x, ids, weights = FP8_LAYER.routing(tokens, seed=tokens)
    plain = FP8_LAYER.weights()
    gate_up, down = quantise_blocks(plain.gate_up), quantise_blocks(plain.down)
    expanded = ExpertWeights.of(plain.owned, dequantise_blocks(*gate_up), dequantise_blocks(*down))
    expected = GroupedMoe().run(x, ids, weights, expanded)

    out = GroupedMoe().run(x, ids, weights, ExpertWeights.of_fp8(plain.owned, gate_up, down))

    assert out.dtype is x.dtype
    assert relative_error(out, expected) <= FP8_TOLERANCE

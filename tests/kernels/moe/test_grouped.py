"""Frames of fixed shapes give what a loop over tokens and experts gives, whichever layout they have."""

import pytest
import torch

from baton.kernels.moe.grouped import ALIGNMENT, GroupedMoe
from baton.kernels.moe.routes import contiguous_capacity
from support.moe_cases import Layer

LAYER = Layer()
FEW, MANY = 5, 120


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

"""The three stages together equal a loop over tokens and their experts, weights applied once."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from baton.kernels.moe.backend import LocalMoe
from baton.kernels.moe.experts import ExpertWeights, experts_contiguous
from baton.kernels.moe.prepare import prepare_contiguous

EXPERTS, HIDDEN, WIDTH = 6, 10, 7


def experts(owned: range = range(EXPERTS)) -> ExpertWeights:
    generator = torch.Generator().manual_seed(1)
    gate_up = torch.randn(EXPERTS, 2 * WIDTH, HIDDEN, generator=generator)
    down = torch.randn(EXPERTS, HIDDEN, WIDTH, generator=generator)
    return ExpertWeights.of(owned, gate_up[owned.start : owned.stop], down[owned.start : owned.stop])


def routing(tokens: int, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, HIDDEN, generator=generator)
    ids = torch.stack([torch.randperm(EXPERTS, generator=generator)[:top_k] for _ in range(tokens)])
    return x, ids, torch.rand(tokens, top_k, generator=generator)


def loop(x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    full = experts()
    out = torch.zeros_like(x)
    for token in range(x.shape[0]):
        for expert, weight in zip(ids[token].tolist(), weights[token].tolist(), strict=True):
            if expert >= 0:
                gate, up = (full.gate_up[expert] @ x[token]).chunk(2)
                out[token] += weight * (full.down[expert] @ (silu(gate) * up))
    return out


@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize("top_k", [1, 3])
def test_the_stages_together_equal_the_loop(tokens: int, top_k: int) -> None:
    x, ids, weights = routing(tokens, top_k)

    torch.testing.assert_close(LocalMoe().run(x, ids, weights, experts()), loop(x, ids, weights))


def test_padding_rows_reach_no_expert_and_come_back_as_zeros() -> None:
    x, ids, weights = routing(5, 2)
    ids[3:] = -1

    out = LocalMoe().run(x, ids, weights, experts())

    assert sum(prepare_contiguous(x, ids, range(EXPERTS)).counts) == 6
    assert torch.equal(out[3:], torch.zeros(2, HIDDEN))
    torch.testing.assert_close(out, loop(x, ids, weights))


@pytest.mark.parametrize("tokens", [1, 9])
def test_ranks_that_own_parts_of_the_experts_add_up_to_the_whole(tokens: int) -> None:
    x, ids, weights = routing(tokens, 3)

    parts = [LocalMoe().run(x, ids, weights, experts(owned)) for owned in (range(2), range(2, EXPERTS))]

    torch.testing.assert_close(parts[0] + parts[1], loop(x, ids, weights))


def test_no_tokens_give_no_rows() -> None:
    x, ids, weights = routing(2, 2)

    assert LocalMoe().run(x[:0], ids[:0], weights[:0], experts()).shape == (0, HIDDEN)


def test_only_experts_with_rows_appear_and_rows_lie_expert_after_expert() -> None:
    x = torch.arange(3.0).unsqueeze(1)
    ids = torch.tensor([[4, 1], [1, 5], [4, 5]])

    routed = prepare_contiguous(x, ids, range(EXPERTS))

    assert (routed.experts, routed.counts) == ([1, 4, 5], [2, 2, 2])
    assert routed.rows.flatten().tolist() == [0, 1, 0, 2, 1, 2]


def test_the_experts_stage_applies_no_router_weights() -> None:
    x, ids, _ = routing(4, 2)

    outputs = experts_contiguous(prepare_contiguous(x, ids, range(EXPERTS)), experts())

    pairs = sorted((int(expert), token) for token in range(4) for expert in ids[token])
    expected = [loop(x[t : t + 1], torch.tensor([[e]]), torch.ones(1, 1))[0] for e, t in pairs]
    torch.testing.assert_close(outputs, torch.stack(expected))

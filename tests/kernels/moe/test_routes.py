"""Rows grouped by expert, multiplied and brought back, equal a loop over tokens and their experts."""

import pytest
import torch
from torch import Tensor

from baton.kernels.moe.grouped_gemm import grouped_gemm, grouped_gemm_masked
from baton.kernels.moe.routes import permute, route_contiguous, route_masked, unpermute

EXPERTS, WIDTH, OUT, ALIGNMENT = 6, 5, 4, 4
OWNED = [range(EXPERTS), range(2, 5)]


def routing(tokens: int, top_k: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.stack([torch.randperm(EXPERTS, generator=generator)[:top_k] for _ in range(tokens)])
    ids[tokens // 2] = -1  # a dead row
    x = torch.randn(tokens, WIDTH, generator=generator)
    matrices = torch.randn(EXPERTS, OUT, WIDTH, generator=generator)
    return x, ids, torch.rand(tokens, top_k, generator=generator), matrices


def loop(x: Tensor, ids: Tensor, weights: Tensor, matrices: Tensor, owned: range) -> Tensor:
    out = torch.zeros(len(x), OUT)
    for token, chosen in enumerate(ids.tolist()):
        for k, expert in enumerate(chosen):
            if expert in owned:
                out[token] += weights[token, k] * (matrices[expert] @ x[token])
    return out


@pytest.mark.parametrize("owned", OWNED)
@pytest.mark.parametrize("tokens", [1, 3, 17])
def test_the_contiguous_way_there_and_back(tokens: int, owned: range) -> None:
    x, ids, weights, matrices = routing(tokens)

    routes = route_contiguous(ids, owned, ALIGNMENT)
    outputs = grouped_gemm(permute(x, routes), matrices[owned.start : owned.stop], routes.tile_experts)

    expected = loop(x, ids, weights, matrices, owned)
    torch.testing.assert_close(unpermute(outputs, routes, weights), expected)


@pytest.mark.parametrize("owned", OWNED)
@pytest.mark.parametrize("tokens", [1, 3, 17])
def test_the_masked_way_there_and_back(tokens: int, owned: range) -> None:
    x, ids, weights, matrices = routing(tokens)

    routes = route_masked(ids, owned, tokens + 1)
    rows = permute(x, routes).view(len(owned), tokens + 1, WIDTH)
    outputs = grouped_gemm_masked(rows, matrices[owned.start : owned.stop], routes.counts)

    expected = loop(x, ids, weights, matrices, owned)
    torch.testing.assert_close(unpermute(outputs.flatten(0, 1), routes, weights), expected)


def test_each_expert_starts_at_an_aligned_row_and_names_its_tiles() -> None:
    ids = torch.tensor([[4, 1], [1, 5], [1, 4], [1, 0], [2, 1]])

    routes = route_contiguous(ids, range(1, 6), ALIGNMENT)

    assert routes.counts.tolist() == [5, 1, 0, 2, 1]
    assert routes.tile_experts is not None
    assert routes.tile_experts.tolist() == [0, 0, 1, 3, 4, -1, -1]
    assert routes.positions.tolist() == [[12, 0], [1, 16], [2, 13], [3, -1], [8, 4]]
    assert routes.rows == len(routes.tile_experts) * ALIGNMENT

"""Attention equals softmax in float64, and parts merge into the whole."""

import pytest
import torch
from torch import Tensor

from baton.kernels.attention import QUERY_BLOCK, attend, merge_attention

SCALE = 0.3


def tensors(queries: int, keys: int, v_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(queries)
    shapes = [(2, 3, queries, 8), (2, keys, 8), (2, keys, v_dim)]
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q, k, v


def plain(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    scores = (q.double() @ k.double().transpose(-1, -2).unsqueeze(1)) * SCALE
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ v.double().unsqueeze(1)).float(), scores.logsumexp(-1).float()


@pytest.mark.parametrize("v_dim", [8, 5])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 7, QUERY_BLOCK + 30])
def test_outputs_and_log_sums_equal_plain_softmax(v_dim: int, causal: bool, tokens: int) -> None:
    q, k, v = tensors(tokens, tokens, v_dim)

    out, logs = attend(q, k, v, scale=SCALE, causal=causal)

    expected_out, expected_logs = plain(q, k, v, causal=causal)
    torch.testing.assert_close(out, expected_out)
    torch.testing.assert_close(logs, expected_logs)


@pytest.mark.parametrize("cut", [1, 6, 299])
def test_two_parts_of_the_keys_merge_into_the_whole(cut: int) -> None:
    q, k, v = tensors(4, 300, 8)
    parts = [
        attend(q, k[:, span], v[:, span], scale=SCALE, causal=False)
        for span in (slice(0, cut), slice(cut, 300))
    ]

    out, logs = merge_attention(*parts)

    expected_out, expected_logs = plain(q, k, v, causal=False)
    torch.testing.assert_close(out, expected_out)
    torch.testing.assert_close(logs, expected_logs)


def test_a_part_with_far_larger_scores_wins_without_overflow() -> None:
    q, k, v = tensors(2, 4, 8)
    parts = [attend(q, k * factor, v, scale=SCALE, causal=False) for factor in (1.0, 300.0)]

    out, logs = merge_attention(*parts)

    assert torch.isfinite(out).all()
    assert torch.isfinite(logs).all()
    both = plain(q, torch.cat((k, k * 300), 1), torch.cat((v, v), 1), causal=False)
    torch.testing.assert_close(out, both[0])

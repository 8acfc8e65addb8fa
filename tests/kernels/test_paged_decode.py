"""Paged decode equals attention over each sequence's own tokens; a dead row gives zeros."""

import pytest
import torch
from torch import Tensor

from baton.kernels.gqa_decode import gqa_paged_decode
from baton.kernels.mla_decode import mla_paged_decode

LENGTHS = [5, 0, 12]
TABLES = torch.tensor([[7, 2, 0], [0, 0, 0], [1, 6, 3]], dtype=torch.int32)
LAYERS, BLOCK_TOKENS, SCALE = 2, 4, 0.4


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_mla_rows_see_their_own_entries(layer: int) -> None:
    heads, rank, rope = 3, 6, 2
    pool, q = normal(8, LAYERS, BLOCK_TOKENS, rank + rope), normal(3, heads, rank + rope)
    pool[0] = 1e4

    actual = mla_paged_decode(q, pool, layer, TABLES, torch.tensor(LENGTHS), rank=rank, scale=SCALE)

    for row, length in enumerate(LENGTHS):
        entries = pool[TABLES[row].long(), layer].reshape(-1, rank + rope)[:length].double()
        weights = (q[row].double() @ entries.t() * SCALE).softmax(-1)
        torch.testing.assert_close(actual[row], (weights @ entries[:, :rank]).float())


@pytest.mark.parametrize("layer", range(LAYERS))
def test_gqa_rows_see_their_own_keys_and_values(layer: int) -> None:
    heads, kv_heads, dim = 6, 2, 5
    pool, q = normal(8, LAYERS, 2, kv_heads, BLOCK_TOKENS, dim), normal(3, heads, dim)
    pool[0] = 1e4

    actual = gqa_paged_decode(q, pool, layer, TABLES, torch.tensor(LENGTHS), scale=SCALE)

    for row, length in enumerate(LENGTHS):
        for head in range(heads):
            blocks = pool[
                TABLES[row].long(), layer, :, head // (heads // kv_heads)
            ]  # [blocks, 2, tokens, dim]
            k, v = blocks.transpose(0, 1).reshape(2, -1, dim)[:, :length].double()
            weights = (q[row, head].double() @ k.t() * SCALE).softmax(-1)
            torch.testing.assert_close(actual[row, head], (weights @ v).float())

"""Absorbed MLA decode equals attention over each sequence's entries, whatever else its blocks hold."""

import torch

from baton.engine.models.attention import length_mask
from baton.kernels.kv_rows import read_rows, table_token_rows
from baton.kernels.mla_decode import mla_decode_attention

HEADS, RANK, ROPE, BLOCK_TOKENS, LAYERS = 3, 6, 2, 4, 2
SCALE = 0.4


def test_every_sequence_attends_to_its_own_tokens_only() -> None:
    generator = torch.Generator().manual_seed(5)
    lengths = [5, 1, 12]
    tables = torch.tensor([[7, 2, 0], [4, 0, 0], [1, 6, 3]], dtype=torch.int32)
    pool = torch.randn(8, LAYERS, BLOCK_TOKENS, RANK + ROPE, generator=generator)
    pool[0] = 1e4  # the null block, which pads the tables, must never be seen
    q = torch.randn(3, HEADS, RANK + ROPE, generator=generator)

    for layer in range(LAYERS):
        rows = table_token_rows(tables, 12, LAYERS, BLOCK_TOKENS).flatten() + layer * BLOCK_TOKENS
        entries = read_rows(pool, rows, RANK + ROPE).view(3, 12, -1)
        mask = length_mask(lengths, q.device)
        actual = mla_decode_attention(q, entries, mask, rank=RANK, scale=SCALE)

        for row, length in enumerate(lengths):
            entries = pool[tables[row].long(), layer].reshape(-1, RANK + ROPE)[:length].double()
            weights = (q[row].double() @ entries.t() * SCALE).softmax(-1)
            torch.testing.assert_close(actual[row], (weights @ entries[:, :RANK]).float())


def test_without_a_mask_all_have_the_same_length() -> None:
    entries = torch.randn(3, RANK + ROPE, generator=torch.Generator().manual_seed(6))
    q = torch.randn(1, HEADS, RANK + ROPE, generator=torch.Generator().manual_seed(7))

    actual = mla_decode_attention(q, entries.unsqueeze(0), None, rank=RANK, scale=SCALE)

    torch.testing.assert_close(actual[0], (q[0] @ entries.t() * SCALE).softmax(-1) @ entries[:, :RANK])

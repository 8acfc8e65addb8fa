"""GQA decode equals attention over each sequence's keys, whatever else its blocks hold."""

import torch

from baton.engine.models.attention import length_mask
from baton.kernels.gqa_decode import gqa_decode_attention
from baton.kernels.kv_rows import keys_then_values, read_rows, table_block_rows

HEADS, KV_HEADS, DIM, BLOCK_TOKENS, LAYERS = 6, 2, 5, 4, 2
SCALE = 0.4


def test_every_sequence_attends_to_its_own_tokens_only() -> None:
    generator = torch.Generator().manual_seed(5)
    lengths = [5, 1, 12]
    tables = torch.tensor([[7, 2, 0], [4, 0, 0], [1, 6, 3]], dtype=torch.int32)
    pool = torch.randn(8, LAYERS, 2, KV_HEADS, BLOCK_TOKENS, DIM, generator=generator)
    pool[0] = 1e4  # the null block, which pads the tables, must never be seen
    q = torch.randn(3, HEADS, DIM, generator=generator)
    mask = length_mask(lengths, q.device)

    for layer in range(LAYERS):
        rows = keys_then_values(table_block_rows(tables, LAYERS, 2 * KV_HEADS)) + layer * 2 * KV_HEADS
        kv = read_rows(pool, rows, BLOCK_TOKENS * DIM).view(2, 3 * KV_HEADS, 12, DIM)
        actual = gqa_decode_attention(q, kv, mask, scale=SCALE)

        for row, length in enumerate(lengths):
            cached = (
                pool[tables[row].long(), layer].transpose(0, 1).transpose(1, 2)
            )  # [2, heads, blocks, ...]
            k, v = cached.reshape(2, KV_HEADS, -1, DIM)[:, :, :length].double()
            for head in range(HEADS):
                shared = head // (HEADS // KV_HEADS)
                weights = (q[row, head].double() @ k[shared].t() * SCALE).softmax(-1)
                torch.testing.assert_close(actual[row, head], (weights @ v[shared]).float())


def test_keys_may_be_the_first_of_longer_rows() -> None:
    rows = torch.randn(2, KV_HEADS, BLOCK_TOKENS, DIM, generator=torch.Generator().manual_seed(6))
    q = torch.randn(1, HEADS, DIM, generator=torch.Generator().manual_seed(7))

    actual = gqa_decode_attention(q, rows[:, :, :3], None, scale=SCALE)

    k, v = rows[:, :, :3]
    for head in range(HEADS):
        shared = head // (HEADS // KV_HEADS)
        expected = (q[0, head] @ k[shared].t() * SCALE).softmax(-1) @ v[shared]
        torch.testing.assert_close(actual[0, head], expected)

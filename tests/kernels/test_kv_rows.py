"""Row addresses lead to the same places of the pool as plain indexing by block, layer, head and offset."""

import pytest
import torch

from baton.kernels.kv_rows import (
    gqa_token_rows,
    mla_token_rows,
    read_rows,
    table_block_rows,
    table_token_rows,
    write_rows,
)

BLOCKS, LAYERS, TOKENS, WIDTH, KV_HEADS = 5, 3, 4, 6, 2
SLOTS = torch.tensor([4, 7, 19, 12])
PLACES = [(1, 0), (1, 3), (4, 3), (3, 0)]  # block and offset of each slot


def test_mla_tokens_are_written_where_their_slots_say() -> None:
    pool = torch.zeros(BLOCKS, LAYERS, TOKENS, WIDTH)
    rows = mla_token_rows(SLOTS, LAYERS, TOKENS)
    values = torch.randn(LAYERS, len(SLOTS), WIDTH)
    expected = pool.clone()
    for layer in range(LAYERS):
        for token, (block, offset) in enumerate(PLACES):
            expected[block, layer, offset] = values[layer, token]

    for layer in range(LAYERS):
        write_rows(pool, rows[layer], values[layer])

    assert torch.equal(pool, expected)


def test_gqa_tokens_are_written_head_by_head_keys_before_values() -> None:
    pool = torch.zeros(BLOCKS, LAYERS, 2, KV_HEADS, TOKENS, WIDTH)
    rows = gqa_token_rows(SLOTS, LAYERS, KV_HEADS, TOKENS)
    values = torch.randn(LAYERS, len(SLOTS), 2, KV_HEADS, WIDTH)
    expected = pool.clone()
    for layer in range(LAYERS):
        for token, (block, offset) in enumerate(PLACES):
            expected[block, layer, :, :, offset] = values[layer, token]

    for layer in range(LAYERS):
        write_rows(pool, rows[layer], values[layer].reshape(-1, WIDTH))

    assert torch.equal(pool, expected)


def test_blocks_are_read_in_the_order_of_the_table_plane_by_plane() -> None:
    pool = torch.randn(BLOCKS, LAYERS, 2, KV_HEADS, TOKENS, WIDTH)
    tables = torch.tensor([[4, 1], [2, 0]], dtype=torch.int32)

    rows = table_block_rows(tables, LAYERS, 2 * KV_HEADS).flatten()

    for layer in range(LAYERS):
        read = read_rows(pool, rows + layer * 2 * KV_HEADS, TOKENS * WIDTH).view(
            2, 2, KV_HEADS, 2, TOKENS, WIDTH
        )
        expected = pool[tables.long(), layer].permute(0, 2, 3, 1, 4, 5)
        assert torch.equal(read, expected)


@pytest.mark.parametrize("tokens", [1, 4, 7, 8])
def test_tokens_are_read_in_the_order_of_the_table_up_to_their_number(tokens: int) -> None:
    pool = torch.randn(BLOCKS, LAYERS, TOKENS, WIDTH)
    tables = torch.tensor([[4, 1], [2, 0]], dtype=torch.int32)

    rows = table_token_rows(tables, tokens, LAYERS, TOKENS)

    for layer in range(LAYERS):
        read = read_rows(pool, rows.flatten() + layer * TOKENS, WIDTH).view(2, tokens, WIDTH)
        assert torch.equal(read, pool[tables.long(), layer].flatten(1, 2)[:, :tokens])


def test_values_take_the_dtype_of_the_pool() -> None:
    pool = torch.zeros(2, 1, 2, 4, dtype=torch.bfloat16)

    write_rows(pool, torch.tensor([3]), torch.full((1, 4), 1.5))

    assert torch.equal(pool[1, 0, 1], torch.full((4,), 1.5, dtype=torch.bfloat16))

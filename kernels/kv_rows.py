"""Rows of the KV pool: where tokens and blocks lie, and reading and writing them.

The pool is one tensor, block-major: `[blocks, layers, block_tokens, width]` for MLA and
`[blocks, layers, 2, kv_heads, block_tokens, head_dim]` for GQA. Seen as rows of `width` or `head_dim` values,
every address is an integer, and the addresses of all layers of a step are computed at once.

A pool may be FP8 (e4m3) without factors, as vLLM's dense FP8 cache is by default: latents, keys and values
are of a size that fits its range, normalised ones by construction, and what does not is cut off at 448.
"""

import torch
from torch import Tensor

from .by_device import by_device, on_cpu
from .fp8 import FP8, FP8_MAX


@on_cpu
def mla_token_rows(slots: Tensor, layers: int, block_tokens: int) -> Tensor:
    """Rows of tokens in a pool seen as `[blocks * layers * block_tokens, width]`.

    slots    [tokens]           int64, `block_id * block_tokens + offset`
    returns  [layers, tokens]   int64
    """
    first_layer = slots + (slots // block_tokens) * ((layers - 1) * block_tokens)
    return first_layer + _layer_steps(slots, layers, block_tokens)


@on_cpu
def gqa_token_rows(slots: Tensor, layers: int, kv_heads: int, block_tokens: int) -> Tensor:
    """Rows of tokens' keys and values in a pool seen as `[-1, dim]`, one row a head and token.

    slots    [tokens]                           int64
    returns  [layers, tokens * 2 * kv_heads]    int64; keys of all heads, then values, token by token
    """
    planes = 2 * kv_heads
    first = slots + (slots // block_tokens) * ((layers * planes - 1) * block_tokens)
    steps = torch.arange(0, layers * planes * block_tokens, block_tokens, device=slots.device)
    return (first.unsqueeze(1) + steps.view(layers, 1, planes)).flatten(1)


def table_block_rows(tables: Tensor, layers: int, planes: int) -> Tensor:
    """Rows of whole blocks in layer 0 of a pool seen as `[blocks * layers * planes, values of a plane]`.

    tables   [sequences, blocks]            int32
    returns  [sequences, planes, blocks]    int64
    """
    first = tables.long().unsqueeze(1) * (layers * planes)
    return first + torch.arange(planes, device=tables.device).unsqueeze(1)


def keys_then_values(rows: Tensor) -> Tensor:
    """Order rows of blocks so that what is read is one batch of keys and one of values, without a copy.

    rows     [sequences, 2 * kv_heads, blocks]     int64, keys of all heads, then values
    returns  [2 * sequences * kv_heads * blocks]   int64, keys of all sequences, then values
    """
    sequences, planes, blocks = rows.shape
    return rows.view(sequences, 2, planes // 2, blocks).transpose(0, 1).flatten()


def table_token_rows(tables: Tensor, tokens: int, layers: int, block_tokens: int) -> Tensor:
    """Rows of the first `tokens` tokens in layer 0 of an MLA pool seen as `[-1, width]`.

    tables   [sequences, blocks]   int32
    returns  [sequences, tokens]   int64
    """
    used = tables[:, : -(-tokens // block_tokens)].long() * (layers * block_tokens)
    rows = used.unsqueeze(-1) + torch.arange(block_tokens, device=tables.device)
    return rows.flatten(1)[:, :tokens]


@by_device
def write_rows(pool: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write values into the pool.

    pool    any shape, contiguous
    rows    [n]          int64
    values  [n, width] or [tokens, n / tokens, width], rows of the pool seen as [-1, width]; for an FP8 pool,
            of at most `FP8_MAX` after all
    """
    values = values.flatten(0, -2)
    if pool.dtype is FP8:
        pool, values = pool.view(torch.uint8), values.clamp(-FP8_MAX, FP8_MAX).to(FP8).view(torch.uint8)
    pool.view(-1, values.shape[-1]).index_copy_(0, rows, values.to(pool.dtype))


@by_device
def read_rows(pool: Tensor, rows: Tensor, width: int) -> Tensor:
    """Read rows of the pool seen as `[-1, width]`: `[n, width]`."""
    return pool.view(-1, width).index_select(0, rows)


def _layer_steps(like: Tensor, layers: int, rows_a_layer: int) -> Tensor:
    return (torch.arange(layers, device=like.device) * rows_a_layer).unsqueeze(1)

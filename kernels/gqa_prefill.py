"""Grouped-query attention for prompt chunks."""

import torch
from torch import Tensor

from .attention import attend, joined, merge_attention
from .kv_rows import read_rows

CONTEXT_PIECE_BLOCKS = 64


def gqa_prefill_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pool: Tensor,
    *,
    query_starts: list[int],
    context_lens: list[int],
    context_rows: list[Tensor],
    scale: float,
) -> Tensor:
    """Attend from each sequence's chunk to its cached context and, causally, to itself.

    q             [tokens, heads, dim]
    k, v          [tokens, kv_heads, dim]     of the chunks' own tokens
    pool          [blocks, layers, 2, kv_heads, block_tokens, dim]
    query_starts  [sequences + 1]
    context_lens  [sequences]
    context_rows  [sequences] of [2 * kv_heads, blocks] int64, rows of the pool as [-1, block_tokens * dim]
    returns       [tokens, heads * dim]
    """
    attended = []
    for sequence, rows in enumerate(context_rows):
        chunk = slice(query_starts[sequence], query_starts[sequence + 1])
        queries = _grouped(q[chunk], k).permute(1, 2, 0, 3)
        own_keys, own_values = k[chunk].transpose(0, 1), v[chunk].transpose(0, 1)
        result = attend(queries, own_keys, own_values, scale=scale, causal=True)
        left = context_lens[sequence]
        for piece in torch.split(rows, CONTEXT_PIECE_BLOCKS, 1) if left else ():
            keys, values = _context(pool, piece, left, q)
            result = merge_attention(attend(queries, keys, values, scale=scale, causal=False), result)
            left -= keys.shape[1]
        attended.append(result[0].permute(2, 0, 1, 3).flatten(1))
    return joined(attended, q, q.shape[1] * q.shape[2])


def _grouped(x: Tensor, k: Tensor) -> Tensor:
    """[tokens, heads, dim] as [tokens, kv_heads, group, dim]."""
    return x.view(x.shape[0], k.shape[1], -1, x.shape[-1])


def _context(pool: Tensor, rows: Tensor, left: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of a run of blocks, at most `left` tokens: [kv_heads, tokens, dim] each."""
    kv_heads, tokens, dim = pool.shape[3:]
    blocks = read_rows(pool, rows.flatten(), tokens * dim)
    keys, values = blocks.view(2, kv_heads, -1, dim)[:, :, :left].to(like.dtype).unbind(0)
    return keys, values

"""Multi-head latent attention for prompt chunks, unabsorbed: latents are expanded to keys and values.

Per head that costs qk 192 and v 128 values instead of 576 and 512, which pays as soon as a chunk has many
queries. Cached context is expanded in pieces, so memory does not grow with it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import attend, joined, merge_attention
from .kv_rows import read_rows
from .linear import multiply

CONTEXT_PIECE_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class MlaExpansion:
    """How latents become keys and values."""

    weight: Tensor
    """[kv_lora_rank, heads * (nope_dim + v_dim)]"""
    heads: int
    nope_dim: int
    v_dim: int


def mla_prefill_attention(
    q: Tensor,
    entries: Tensor,
    pool: Tensor,
    *,
    query_starts: list[int],
    context_rows: list[Tensor],
    expansion: MlaExpansion,
    scale: float,
) -> Tensor:
    """Attend from each sequence's chunk to its cached context and, causally, to itself.

    q             [tokens, heads, nope_dim + rope_dim]
    entries       [tokens, kv_lora_rank + rope_dim]     latent and roped key of the chunks' own tokens
    pool          the KV pool
    query_starts  [sequences + 1]
    context_rows  [sequences] of [context tokens] int64, rows of the pool seen as [-1, entry width]
    returns       [tokens, heads * v_dim]
    """
    keys, values = _expand(entries, expansion)
    attended = []
    for sequence, rows in enumerate(context_rows):
        chunk = slice(query_starts[sequence], query_starts[sequence + 1])
        queries = q[chunk].transpose(0, 1).unsqueeze(1)
        own_keys, own_values = keys[chunk].transpose(0, 1), values[chunk].transpose(0, 1)
        result = attend(queries, own_keys, own_values, scale=scale, causal=True)
        for piece in torch.split(rows, CONTEXT_PIECE_TOKENS) if rows.numel() else ():
            k, v = _expand(read_rows(pool, piece, entries.shape[-1]).to(q.dtype), expansion)
            part = attend(queries, k.transpose(0, 1), v.transpose(0, 1), scale=scale, causal=False)
            result = merge_attention(part, result)
        attended.append(result[0].squeeze(1).transpose(0, 1).flatten(1))
    return joined(attended, q, expansion.heads * expansion.v_dim)


def _expand(entries: Tensor, expansion: MlaExpansion) -> tuple[Tensor, Tensor]:
    """[tokens, entry width] to keys [tokens, heads, nope_dim + rope_dim], values [tokens, heads, v_dim]."""
    rank = expansion.weight.shape[0]
    expanded = multiply(entries[:, :rank], expansion.weight).view(entries.shape[0], expansion.heads, -1)
    nope, values = torch.split(expanded, [expansion.nope_dim, expansion.v_dim], -1)
    shared = entries[:, None, rank:].expand(-1, expansion.heads, -1)
    return torch.cat((nope, shared), -1), values

"""Grouped-query attention for one token a sequence."""

import torch
from torch import Tensor


def gqa_decode_attention(
    q: Tensor, pool: Tensor, rows: Tensor, mask: Tensor | None, *, keys: int, scale: float
) -> Tensor:
    """Attend over paged keys and values.

    q        [batch, heads, dim]
    pool     [blocks, layers, 2, kv_heads, block_tokens, dim]
    rows     [batch * 2 * kv_heads * table]   int64, rows of the pool seen as [-1, block_tokens * dim]
    mask     [batch, 1, keys]   added to the scores; None where no key is padding
    returns  [batch, heads, dim]
    """
    batch, _, dim = q.shape
    kv_heads = pool.shape[3]
    tokens = pool.shape[-2]
    used = min(keys, tokens) * dim  # of a lone block only what holds keys
    blocks = pool.view(-1, tokens * dim)[:, :used].index_select(0, rows)
    k, v = blocks.view(batch, 2, kv_heads, -1, dim)[:, :, :, :keys].to(q.dtype).unbind(1)
    scores = torch.matmul(q.reshape(batch, kv_heads, -1, dim), k.transpose(-1, -2)).mul_(scale)
    if mask is not None:
        scores.add_(mask.unsqueeze(1))
    weights = torch.softmax(scores, -1)
    return torch.matmul(weights, v).flatten(1, 2)

"""Grouped-query attention for one token a sequence."""

import torch
from torch import Tensor

from .by_device import by_device
from .mla_decode import softmax_up_to


def gqa_decode_attention(q: Tensor, kv: Tensor, mask: Tensor | None, *, scale: float) -> Tensor:
    """Attend over the keys and values of each sequence.

    q        [batch, heads, dim]
    kv       [2, batch * kv_heads, keys, dim]   keys, then values; a row dense, heads anywhere
    mask     [batch, 1, keys]                   added to the scores; None where no key is padding
    returns  [batch, heads, dim]
    """
    batch, heads, dim = q.shape
    k, v = kv.to(q.dtype).unbind(0)
    scores = torch.bmm(q.reshape(k.shape[0], -1, dim), k.transpose(1, 2)).mul_(scale)
    if mask is not None:
        scores.view(batch, heads, -1).add_(mask)
    return torch.bmm(torch.softmax(scores, -1), v).view(batch, heads, dim)


@by_device
def gqa_paged_decode(
    q: Tensor, pool: Tensor, layer: int, tables: Tensor, context_lens: Tensor, *, scale: float
) -> Tensor:
    """Attend over the blocks of each sequence's table.

    Nothing here depends on the lengths but the values, so the call can be captured in a CUDA graph.

    q             [batch, heads, dim]
    pool          [blocks, layers, 2, kv_heads, block_tokens, dim]   q.dtype, or FP8 that is read as it is
    tables        [batch, max_blocks]   int32
    context_lens  [batch]               int32; 0 marks a dead row, whose output is zero
    returns       [batch, heads, dim]   q.dtype
    """
    batch, _, dim = q.shape
    kv_heads = pool.shape[3]
    blocks = pool[tables.long(), layer].to(q.dtype)  # [batch, max_blocks, 2, kv_heads, block_tokens, dim]
    k, v = blocks.permute(2, 0, 3, 1, 4, 5).flatten(3, 4).unbind(0)
    scores = torch.matmul(q.view(batch, kv_heads, -1, dim), k.transpose(-1, -2)).float().mul_(scale)
    weights = softmax_up_to(scores, context_lens).to(q.dtype)
    return torch.matmul(weights, v).flatten(1, 2)

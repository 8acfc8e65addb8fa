"""Multi-head latent attention for one token a sequence, absorbed: scores are taken against the latents.

The query is multiplied into latent space once (`q_nope @ W_UK`), after which all heads share one key a token,
the cached entry itself, and its first `kv_lora_rank` values are the value.
"""

import torch
from torch import Tensor

from .by_device import by_device


def mla_decode_attention(
    q: Tensor, entries: Tensor, mask: Tensor | None, *, rank: int, scale: float
) -> Tensor:
    """Attend over the entries of each sequence.

    q        [batch, heads, rank + rope_dim]
    entries  [batch, keys, rank + rope_dim]   a row dense, batches anywhere
    mask     [batch, 1, keys]                 added to the scores; None where no key is padding
    returns  [batch, heads, rank]
    """
    entries = entries.to(q.dtype)
    keys_first = entries.transpose(1, 2)
    if mask is None:
        scores = torch.bmm(q, keys_first).mul_(scale)
    else:
        scores = torch.baddbmm(mask, q, keys_first, alpha=scale)
    return torch.bmm(torch.softmax(scores, -1), entries[..., :rank])


@by_device
def mla_paged_decode(
    q: Tensor,
    pool: Tensor,
    layer: int,
    tables: Tensor,
    context_lens: Tensor,
    *,
    rank: int,
    scale: float,
) -> Tensor:
    """Attend over the blocks of each sequence's table.

    Nothing here depends on the lengths but the values, so the call can be captured in a CUDA graph.

    q             [batch, heads, rank + rope_dim]
    pool          [blocks, layers, block_tokens, rank + rope_dim]   q.dtype, or FP8 that is read as it is
    tables        [batch, max_blocks]   int32
    context_lens  [batch]               int32; 0 marks a dead row, whose output is zero
    returns       [batch, heads, rank]  q.dtype
    """
    batch, _, width = q.shape
    entries = pool[tables.long(), layer].view(batch, -1, width).to(q.dtype)
    scores = torch.bmm(q, entries.transpose(1, 2)).float().mul_(scale)
    weights = softmax_up_to(scores, context_lens).to(q.dtype)
    return torch.bmm(weights, entries[..., :rank])


def softmax_up_to(scores: Tensor, lengths: Tensor) -> Tensor:
    """Softmax over each row's first keys, zeros after them and where there are none.

    scores   [batch, ..., keys]   float32
    lengths  [batch]
    """
    beyond = torch.arange(scores.shape[-1], device=scores.device) >= lengths.unsqueeze(1)
    beyond = beyond.view(lengths.shape[0], *[1] * (scores.ndim - 2), -1)
    return scores.masked_fill(beyond, float("-inf")).softmax(-1).nan_to_num(0.0)

"""Multi-head latent attention for one token a sequence, absorbed: scores are taken against the latents.

The query is multiplied into latent space once (`q_nope @ W_UK`), after which all heads share one key a token,
the cached entry itself, and its first `kv_lora_rank` values are the value.
"""

import torch
from torch import Tensor

from .kv_rows import read_rows


def mla_decode_attention(
    q: Tensor,
    pool: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    *,
    rank: int,
    scale: float,
) -> Tensor:
    """Attend over paged entries.

    q        [batch, heads, rank + rope_dim]
    pool     [blocks, layers, block_tokens, rank + rope_dim]
    rows     [batch * keys]    int64, tokens of each sequence in the pool seen as [-1, rank + rope_dim]
    mask     [batch, 1, keys]   added to the scores; None where no key is padding
    returns  [batch, heads, rank]
    """
    batch, _, width = q.shape
    entries = read_rows(pool, rows, width).view(batch, -1, width).to(q.dtype)
    keys_first = entries.transpose(1, 2)
    if mask is None:
        scores = torch.bmm(q, keys_first).mul_(scale)
    else:
        scores = torch.baddbmm(mask, q, keys_first, alpha=scale)
    return torch.bmm(torch.softmax(scores, -1), entries[..., :rank])

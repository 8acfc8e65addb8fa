"""What a token's row looks like between ranks: activations, ids and weights in one run of words a token.

One message a layer instead of three: on small batches latency, not bandwidth, is what a transfer costs. And
as few operations as there can be: after attention has filled the caches with KV, each takes 0.1 ms and more,
whatever its size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

WORD_BYTES = 4


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokens and their routing."""

    x: Tensor
    """[tokens, hidden]"""
    ids: Tensor
    """[tokens, top_k] int64; -1 routes nowhere"""
    weights: Tensor
    """[tokens, top_k] float32"""


def pack(tokens: TokenRows) -> Tensor:
    """Return `[tokens, words]` int32; ids travel as such."""
    x, hidden = tokens.x, tokens.x.shape[1]
    missing = _x_words(hidden, x.dtype) * WORD_BYTES // x.itemsize - hidden
    if missing:
        x = pad(x, (0, missing))
    return torch.cat((x.view(torch.int32), tokens.ids.int(), tokens.weights.view(torch.int32)), 1)


def packed_bytes(hidden: int, top_k: int, dtype: torch.dtype) -> int:
    """Bytes of one packed token."""
    return _x_words(hidden, dtype) * WORD_BYTES + 2 * WORD_BYTES * top_k


def unpack(packed: Tensor, hidden: int, top_k: int, dtype: torch.dtype) -> TokenRows:
    """Undo `pack`; the activations stay where they are."""
    x, ids, weights = packed.split_with_sizes((_x_words(hidden, dtype), top_k, top_k), 1)
    return TokenRows(x.view(dtype)[:, :hidden], ids.long(), weights.view(torch.float32).contiguous())


def _x_words(hidden: int, dtype: torch.dtype) -> int:
    """Words that a row of activations takes, rounded up so that ids and weights are aligned."""
    return -(-hidden * dtype.itemsize // WORD_BYTES)


def to_local(ids: Tensor, rank: int | Tensor, experts_per_rank: int) -> Tensor:
    """Count experts from the first of `rank`; those of other ranks become -1."""
    local = ids - rank * experts_per_rank
    return local.masked_fill_((local < 0) | (local >= experts_per_rank) | (ids < 0), -1)

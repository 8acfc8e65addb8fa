"""What a token's row looks like between ranks: activations, ids and weights in one run of bytes a token.

One message a layer instead of three: on small batches latency, not bandwidth, is what a transfer costs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
    """Return `[tokens, bytes]` uint8; ids travel as int32."""
    (count, hidden), top_k, dtype = tokens.x.shape, tokens.ids.shape[1], tokens.x.dtype
    packed = tokens.x.new_empty(count, packed_bytes(hidden, top_k, dtype), dtype=torch.uint8)
    x, ids, weights = _parts(packed, hidden, top_k, dtype)
    x.copy_(tokens.x)
    ids.copy_(tokens.ids)
    weights.copy_(tokens.weights)
    return packed


def packed_bytes(hidden: int, top_k: int, dtype: torch.dtype) -> int:
    """Bytes of one packed token."""
    return _x_words(hidden, dtype) * WORD_BYTES + 2 * WORD_BYTES * top_k


def unpack(packed: Tensor, hidden: int, top_k: int, dtype: torch.dtype) -> TokenRows:
    """Undo `pack`; the activations stay where they are."""
    x, ids, weights = _parts(packed, hidden, top_k, dtype)
    return TokenRows(x, ids.long(), weights.contiguous())


def _parts(packed: Tensor, hidden: int, top_k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Views of activations, ids and weights in packed rows."""
    start = _x_words(hidden, dtype)
    ids, weights = (packed.view(kind) for kind in (torch.int32, torch.float32))
    return (
        packed.view(dtype)[:, :hidden],
        ids[:, start : start + top_k],
        weights[:, start + top_k :],
    )


def _x_words(hidden: int, dtype: torch.dtype) -> int:
    """Words that a row of activations takes, rounded up so that ids and weights are aligned."""
    return -(-hidden * dtype.itemsize // WORD_BYTES)


def to_local(ids: Tensor, rank: int | Tensor, experts_per_rank: int) -> Tensor:
    """Count experts from the first of `rank`; those of other ranks become -1."""
    local = ids - rank * experts_per_rank
    return local.masked_fill_((local < 0) | (local >= experts_per_rank) | (ids < 0), -1)

"""What a token's row looks like between ranks: activations, ids and weights in one run of bytes a token.

One message a layer instead of three: on small batches latency, not bandwidth, is what a transfer costs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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
    parts = (tokens.x, tokens.ids.to(torch.int32), tokens.weights.float())
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], 1)


def packed_bytes(hidden: int, top_k: int, dtype: torch.dtype) -> int:
    """Bytes of one packed token."""
    return hidden * dtype.itemsize + 8 * top_k


def unpack(packed: Tensor, hidden: int, top_k: int, dtype: torch.dtype) -> TokenRows:
    """Undo `pack`."""
    x, ids, weights = packed.split_with_sizes([hidden * dtype.itemsize, 4 * top_k, 4 * top_k], 1)
    return TokenRows(
        x.contiguous().view(dtype),
        ids.contiguous().view(torch.int32).long(),
        weights.contiguous().view(torch.float32),
    )


def to_local(ids: Tensor, rank: int | Tensor, experts_per_rank: int) -> Tensor:
    """Count experts from the first of `rank`; those of other ranks become -1."""
    local = ids - rank * experts_per_rank
    return local.masked_fill_((local < 0) | (local >= experts_per_rank) | (ids < 0), -1)

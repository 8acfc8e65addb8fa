"""`mla_paged_decode` of `mla_decode.py` in C++: the blocks are read where they lie."""

import torch
from torch import Tensor

from . import mla_decode as in_torch
from .by_device import reference
from .native.library import are_plain
from .native.paged_decode import paged_decode


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
    """Attend over the blocks of each sequence's table."""
    if not are_plain(q, pool):
        return reference(in_torch.mla_paged_decode)(
            q, pool, layer, tables, context_lens, rank=rank, scale=scale
        )
    out = torch.empty(*q.shape[:2], rank)
    entries = pool[:, layer]
    paged_decode(q.contiguous().unsqueeze(1), entries, entries, tables, context_lens, scale=scale, out=out)
    return out

"""`gqa_paged_decode` of `gqa_decode.py` in C++: the blocks are read where they lie."""

import torch
from torch import Tensor

from . import gqa_decode as in_torch
from .by_device import reference
from .native.library import are_plain
from .native.paged_decode import paged_decode


def gqa_paged_decode(
    q: Tensor, pool: Tensor, layer: int, tables: Tensor, context_lens: Tensor, *, scale: float
) -> Tensor:
    """Attend over the blocks of each sequence's table."""
    if not are_plain(q, pool):
        return reference(in_torch.gqa_paged_decode)(q, pool, layer, tables, context_lens, scale=scale)
    batch, heads, dim = q.shape
    out = torch.empty(batch, heads, dim)
    keys, values = pool[:, layer].unbind(1)
    grouped = q.contiguous().view(batch, pool.shape[3], -1, dim)
    paged_decode(grouped, keys, values, tables, context_lens, scale=scale, out=out)
    return out

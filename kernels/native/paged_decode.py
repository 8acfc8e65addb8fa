"""Calls `decode_layers.cpp`, whose attention alone serves latents and grouped heads alike."""

import torch
from torch import Tensor

from .library import function

_PAGED_DECODE = function("paged_decode", "pppiiiipipiiiiifpi")


def paged_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    out: Tensor,
) -> None:
    """Attend over the blocks of each sequence's table.

    q             [batch, kv_heads, group, dim]   dense
    keys, values  [blocks, kv_heads, block_tokens, dim], or without heads; the first values of a row may count
                  alone, as many as `out` is wide
    tables        [batch, max_blocks]   int32
    context_lens  [batch]               0 gives zeros
    out           [batch, ..., v_dim]   dense, written
    """
    batch, kv_heads, group, dim = q.shape
    lengths = context_lens if context_lens.dtype is torch.int32 else context_lens.int()
    _PAGED_DECODE(
        q.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        keys.stride(0),
        keys.stride(1) if keys.dim() == 4 else 0,
        keys.stride(-2),
        keys.shape[-2],
        tables.data_ptr(),
        tables.stride(0),
        lengths.data_ptr(),
        batch,
        kv_heads,
        group,
        dim,
        out.shape[-1],
        scale,
        out.data_ptr(),
        torch.get_num_threads(),
    )

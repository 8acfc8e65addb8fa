"""Rotary position embedding on a GPU: a program turns a tile of heads in place."""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from .jit import Number, Pointer, ceil_div, jit, power_of_two, rounded

TILE_PAIRS = 1024


def rope_interleaved_(x: Tensor, turns: Tensor) -> None:
    """Launch in place; shapes as in the reference."""
    _launch(_interleaved_kernel, _by_head(x), turns)


def rope_halves_(x: Tensor, turns: Tensor) -> None:
    """Launch in place; shapes as in the reference."""
    _launch(_halves_kernel, _by_head(x), turns)


def _by_head(x: Tensor) -> Tensor:
    """`[tokens, heads, ...]`, one head where there is no such dimension."""
    assert x.ndim in {2, 3}, f"{list(x.shape)} is neither [tokens, dim] nor [tokens, heads, dim]"
    return x.unsqueeze(1) if x.ndim == 2 else x


def _launch(kernel: Any, x: Tensor, turns: Tensor) -> None:
    tokens, heads, dim = x.shape
    assert x.stride(2) == 1, "a head must be dense"
    if x.numel() == 0:
        return
    cosines, sines = torch.view_as_real(_by_head(turns).expand(tokens, heads, -1)).unbind(-1)
    block = power_of_two(dim // 2)
    block_rows = max(1, min(TILE_PAIRS // block, power_of_two(tokens * heads)))
    kernel[(ceil_div(tokens * heads, block_rows),)](
        x, cosines, sines, tokens * heads, heads, dim // 2,
        x.stride(0), x.stride(1), *cosines.stride(), block_rows, block, num_warps=4,
    )  # fmt: skip


@jit
def _interleaved_kernel(
    x: Pointer,  # [rows / heads, heads, 2 * half], turned in place
    cosines: Pointer,  # [rows / heads, heads, half] float32
    sines: Pointer,  # likewise
    rows: Number,
    heads: Number,
    half: Number,
    x_token: Number,
    x_head: Number,
    table_token: Number,
    table_head: Number,
    table_pair: Number,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    token, head = row // heads, row % heads
    column, pair = tl.arange(0, 2 * block), tl.arange(0, block)
    mask = (row < rows)[:, None] & (column < 2 * half)[None, :]
    pair_mask = (row < rows)[:, None] & (pair < half)[None, :]
    place = x + (token * x_token + head * x_head)[:, None] + column[None, :]
    values = tl.load(place, mask=mask, other=0.0)
    first, second = tl.split(tl.reshape(values.to(tl.float32), [block_rows, block, 2]))
    entry = (token * table_token + head * table_head)[:, None] + (pair * table_pair)[None, :]
    cosine = tl.load(cosines + entry, mask=pair_mask, other=0.0)
    sine = tl.load(sines + entry, mask=pair_mask, other=0.0)
    turned = tl.join(first * cosine - second * sine, first * sine + second * cosine)
    tl.store(place, rounded(tl.reshape(turned, [block_rows, 2 * block]), values.dtype), mask=mask)


@jit
def _halves_kernel(
    x: Pointer,  # [rows / heads, heads, 2 * half], turned in place
    cosines: Pointer,  # [rows / heads, heads, half] float32
    sines: Pointer,  # likewise
    rows: Number,
    heads: Number,
    half: Number,
    x_token: Number,
    x_head: Number,
    table_token: Number,
    table_head: Number,
    table_pair: Number,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    token, head = row // heads, row % heads
    pair = tl.arange(0, block)
    mask = (row < rows)[:, None] & (pair < half)[None, :]
    place = x + (token * x_token + head * x_head)[:, None] + pair[None, :]
    first = tl.load(place, mask=mask, other=0.0)
    second = tl.load(place + half, mask=mask, other=0.0).to(tl.float32)
    entry = (token * table_token + head * table_head)[:, None] + (pair * table_pair)[None, :]
    cosine = tl.load(cosines + entry, mask=mask, other=0.0)
    sine = tl.load(sines + entry, mask=mask, other=0.0)
    wide = first.to(tl.float32)
    tl.store(place, rounded(wide * cosine - second * sine, first.dtype), mask=mask)
    tl.store(place + half, rounded(second * cosine + wide * sine, first.dtype), mask=mask)

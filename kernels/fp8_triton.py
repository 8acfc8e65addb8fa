"""Quantisation to FP8 on a GPU: a program takes one group of columns of a tile of tokens."""

import torch
import triton.language as tl
from torch import Tensor

from .fp8 import FP8, GROUP
from .jit import Number, Pointer, Tile, ceil_div, jit, power_of_two, rounded

LARGEST = tl.constexpr(448.0)
SMALLEST = tl.constexpr(1e-10)
COLUMNS = tl.constexpr(GROUP)
BLOCK_TOKENS = 16


def quantise_groups(x: Tensor) -> tuple[Tensor, Tensor]:
    """Launch; shapes as in the reference."""
    tokens, width = x.shape
    assert x.stride(1) == 1, "rows must be dense"
    groups = ceil_div(width, GROUP)
    values = torch.empty(tokens, width, dtype=FP8, device=x.device)
    scales = torch.empty(tokens, groups, dtype=torch.float32, device=x.device)
    if tokens:
        block_tokens = min(power_of_two(tokens), BLOCK_TOKENS)
        _quantise_kernel[(ceil_div(tokens, block_tokens), groups)](
            x, values, scales, tokens, width, x.stride(0), groups, block_tokens, num_warps=4
        )
    return values, scales


@jit
def quantised(wide: Tile) -> tuple[Tile, Tile]:
    """Values and factors of a tile `[tokens, 128]` in float32."""
    scale = tl.maximum(tl.max(tl.abs(wide), 1), SMALLEST) / LARGEST
    return wide / scale[:, None], scale


@jit
def _quantise_kernel(
    x: Pointer,  # [tokens, width]
    values: Pointer,  # [tokens, width] float8_e4m3fn
    scales: Pointer,  # [tokens, groups] float32
    tokens: Number,
    width: Number,
    x_token: Number,
    groups: Number,
    block_tokens: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64) * block_tokens + tl.arange(0, block_tokens)
    group = tl.program_id(1)
    column = group * COLUMNS + tl.arange(0, COLUMNS)
    mask = (token < tokens)[:, None] & (column < width)[None, :]
    tile = tl.load(x + (token * x_token)[:, None] + column[None, :], mask=mask, other=0.0)
    value, scale = quantised(tile.to(tl.float32))
    tl.store(
        values + (token * width)[:, None] + column[None, :],
        rounded(value, values.dtype.element_ty),
        mask=mask,
    )
    tl.store(scales + token * groups + group, scale, mask=token < tokens)

"""The dense block-FP8 product on a GPU, its depth split where the tiles alone do not fill the GPU.

A decode step has few rows, so reading the weight is the limit, and every processor must take part in it: a
2,112 x 7,168 weight has 17 tiles of 128 columns, an H200 132 processors. Parts are float32 sums that a second
kernel adds in order.
"""

import torch
import triton.language as tl
from torch import Tensor

from .gemm_tile import GROUP, fp8_tile
from .jit import Number, Pointer, ceil_div, jit, power_of_two, processors, rounded

MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 64, 128
BLOCK_COLUMNS = 128
MAX_SPLITS = 8
MIN_SPLIT_GROUPS = 4  # a shorter loop over the depth does not hide its first loads
STRIPE = tl.constexpr(16)


def linear_fp8(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """Launch; shapes as in the reference."""
    (tokens, depth), width = x.shape, weight.shape[0]
    groups = ceil_div(depth, 128)
    assert x.is_contiguous(), "rows and their factors must be contiguous"
    assert x_scales.is_contiguous(), "rows and their factors must be contiguous"
    assert weight.is_contiguous(), "the weight must be contiguous"
    assert weight_scales.is_contiguous(), "the weight must be contiguous"
    assert weight.shape[1] == depth, f"x {list(x.shape)} against weight {list(weight.shape)}"
    assert x_scales.shape == (tokens, groups), f"x_scales {list(x_scales.shape)}"
    assert weight_scales.shape == (ceil_div(width, 128), groups), f"weight_scales {list(weight_scales.shape)}"
    out = torch.empty(tokens, width, dtype=torch.bfloat16, device=x.device)
    if tokens == 0:
        return out
    block_rows = min(max(power_of_two(tokens), MIN_BLOCK_ROWS), MAX_BLOCK_ROWS)
    tiles = ceil_div(tokens, block_rows) * ceil_div(width, BLOCK_COLUMNS)
    splits = split_depth(tiles, groups, processors(x.device))
    parts = out if splits == 1 else torch.empty(splits, tokens, width, dtype=torch.float32, device=x.device)
    _linear_kernel[(tiles, splits)](
        x, x_scales, weight, weight_scales, parts, tokens, width, depth, groups, ceil_div(groups, splits),
        block_rows, BLOCK_COLUMNS, depth % 128 == 0, num_warps=block_rows // 16, num_stages=4,
    )  # fmt: skip
    if splits > 1:
        block = min(power_of_two(out.numel()), 1024)
        _sum_kernel[(ceil_div(out.numel(), block),)](parts, out, out.numel(), splits, block, num_warps=4)
    return out


def split_depth(tiles: int, groups: int, processors: int) -> int:
    """Parts of the depth, a power of two, so that about as many programs run as there are processors."""
    splits = 1
    while (
        2 * splits * tiles <= processors and 2 * splits * MIN_SPLIT_GROUPS <= groups and splits < MAX_SPLITS
    ):
        splits *= 2
    return splits


@jit
def _linear_kernel(
    x: Pointer,  # [tokens, depth] float8_e4m3fn
    x_scales: Pointer,  # [tokens, groups] float32
    weight: Pointer,  # [width, depth] float8_e4m3fn
    weight_scales: Pointer,  # [ceil(width / 128), groups] float32
    out: Pointer,  # [tokens, width] bfloat16, or [splits, tokens, width] float32
    tokens: Number, width: Number, depth: Number, groups: Number, groups_a_split: Number,
    block_rows: tl.constexpr, block_columns: tl.constexpr, even: tl.constexpr,
) -> None:  # fmt: skip
    row_tiles, column_tiles = tl.cdiv(tokens, block_rows), tl.cdiv(width, block_columns)
    stripe = tl.program_id(0) // (STRIPE * column_tiles)
    height = tl.minimum(row_tiles - stripe * STRIPE, STRIPE)
    inside = tl.program_id(0) % (STRIPE * column_tiles)
    row_tile, column_tile = stripe * STRIPE + inside % height, inside // height
    row = row_tile * block_rows + tl.arange(0, block_rows)
    column = column_tile * block_columns + tl.arange(0, block_columns)
    begin = tl.program_id(1) * groups_a_split * GROUP
    end = tl.minimum(begin + groups_a_split * GROUP, depth)
    first = (row % tokens).to(tl.int64)
    total = fp8_tile(
        x + first * depth, x_scales + first * groups, weight + (column % width).to(tl.int64) * depth,
        weight_scales + column_tile * block_columns // 128 * groups, begin, end,
        block_rows, block_columns, even,
    )  # fmt: skip
    mask = (row < tokens)[:, None] & (column < width)[None, :]
    place = (tl.program_id(1).to(tl.int64) * tokens + row)[:, None] * width + column[None, :]
    tl.store(out + place, rounded(total, out.dtype.element_ty), mask=mask)


@jit
def _sum_kernel(
    parts: Pointer,  # [splits, values] float32
    out: Pointer,  # [values]
    values: Number,
    splits: Number,
    block: tl.constexpr,
) -> None:
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    total = tl.zeros([block], tl.float32)
    for part in range(splits):
        total += tl.load(parts + part * values + index, mask=index < values, other=0.0)
    tl.store(out + index, rounded(total, out.dtype.element_ty), mask=index < values)

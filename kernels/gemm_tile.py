"""One tile of a matrix product `rows @ weight.T`, which the dense and the grouped kernels share.

    plain   any float type, accumulated in float32 through the whole depth
    FP8     each 128 of the depth are multiplied on the matrix units, scaled and added in float32: Hopper's
            FP8 units keep fewer bits than float32, so a long sum must not stay in them (DeepSeek-V3, 3.3.2)

Callers give the addresses of rows and columns and clamp those past the end, so that loads need no mask but
along the depth. Only Triton files import this.
"""

import triton.language as tl

from .jit import Number, Pointer, Tile, dot, dot_add, jit

GROUP = tl.constexpr(128)
PLAIN_DEPTH = 64


@jit
def plain_tile(
    row_places: Pointer,  # [block_rows], first value of each row
    weight_places: Pointer,  # [block_columns], first value of each row of the weight
    begin: Number,
    end: Number,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    even: tl.constexpr,  # the depth is a multiple of block_depth
) -> Tile:
    """Sum over depth `begin` to `end`: `[block_rows, block_columns]` float32."""
    total = tl.zeros([block_rows, block_columns], tl.float32)
    for start in range(begin, end, block_depth):
        depth = start + tl.arange(0, block_depth)
        left, right = row_places[:, None] + depth[None, :], weight_places[None, :] + depth[:, None]
        if even:
            total = dot_add(tl.load(left), tl.load(right), total)
        else:
            inside = depth < end
            total = dot_add(
                tl.load(left, mask=inside[None, :], other=0.0),
                tl.load(right, mask=inside[:, None], other=0.0),
                total,
            )
    return total


@jit
def fp8_tile(
    row_places: Pointer,  # [block_rows], first value of each row
    row_scales: Pointer,  # [block_rows], first factor of each row
    weight_places: Pointer,  # [block_columns], first value of each row of the weight
    weight_scales: Pointer,  # first factor of the tile's 128 rows of the weight
    begin: Number,
    end: Number,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,  # at most 128, within one block of the weight
    even: tl.constexpr,  # the depth is a multiple of 128
) -> Tile:
    """Sum over depth `begin` (a multiple of 128) to `end`: `[block_rows, block_columns]` float32."""
    total = tl.zeros([block_rows, block_columns], tl.float32)
    for start in range(begin, end, GROUP):
        depth = start + tl.arange(0, GROUP)
        left, right = row_places[:, None] + depth[None, :], weight_places[None, :] + depth[:, None]
        if even:
            part = dot(tl.load(left), tl.load(right))
        else:
            inside = depth < end
            part = dot(
                tl.load(left, mask=inside[None, :], other=0.0),
                tl.load(right, mask=inside[:, None], other=0.0),
            )
        factor = tl.load(row_scales + start // GROUP) * tl.load(weight_scales + start // GROUP)
        total += part * factor[:, None]
    return total

"""Grouped matrix products on a GPU.

Contiguous: a program a tile, whose expert the tile's rows name. Masked: as many programs as the GPU holds at
a time walk over the tiles that have rows, found from the counts on the device, so that a captured graph does
no work for rows that are not there. Tiles of one stripe of weights follow each other: a decode step reads
every weight once from memory and again from the cache.
"""

import torch
import triton.language as tl
from torch import Tensor

from ..gemm_tile import PLAIN_DEPTH, fp8_tile, plain_tile
from ..jit import Number, Pointer, Tile, ceil_div, jit, power_of_two, processors, rounded

MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 64, 128  # Hopper's matrix instructions take 64 rows at least
BLOCK_COLUMNS = 128
STRIPE = tl.constexpr(16)  # tiles of rows that share a stripe of weights before the next stripe begins


def grouped_gemm(rows: Tensor, weights: Tensor, tile_experts: Tensor) -> Tensor:
    """Launch; shapes as in the reference."""
    out, block_rows = _contiguous(rows, weights, tile_experts, rows.dtype)
    depth = rows.shape[1]
    if out.numel():
        tiles = (out.shape[0] // block_rows, ceil_div(out.shape[1], BLOCK_COLUMNS))
        _contiguous_kernel[(tiles[0] * tiles[1],)](
            rows, weights, tile_experts, out, out.shape[1], depth, tiles[0], weights.stride(0),
            out.shape[0] // tile_experts.shape[0] // block_rows, block_rows, BLOCK_COLUMNS, PLAIN_DEPTH,
            depth % PLAIN_DEPTH == 0, num_warps=8, num_stages=4,
        )  # fmt: skip
    return out


def grouped_gemm_fp8(
    rows: Tensor, row_scales: Tensor, weights: Tensor, weight_scales: Tensor, tile_experts: Tensor
) -> Tensor:
    """Launch; shapes as in the reference."""
    _check_scales(rows, row_scales, weights, weight_scales)
    out, block_rows = _contiguous(rows, weights, tile_experts, torch.bfloat16)
    depth = rows.shape[1]
    if out.numel():
        tiles = (out.shape[0] // block_rows, ceil_div(out.shape[1], BLOCK_COLUMNS))
        _contiguous_fp8_kernel[(tiles[0] * tiles[1],)](
            rows, row_scales, weights, weight_scales, tile_experts, out, out.shape[1], depth, tiles[0],
            weights.stride(0), weight_scales.stride(0), row_scales.shape[1],
            out.shape[0] // tile_experts.shape[0] // block_rows, block_rows, BLOCK_COLUMNS, depth % 128 == 0,
            num_warps=8, num_stages=4,
        )  # fmt: skip
    return out


def grouped_gemm_masked(
    rows: Tensor, weights: Tensor, counts: Tensor, *, expected: int | None = None
) -> Tensor:
    """Launch; shapes as in the reference."""
    experts, capacity, depth = rows.shape
    _check_masked(rows, weights, counts)
    out = rows.new_empty(experts, capacity, weights.shape[1])
    if out.numel():
        block_rows = masked_block_rows(expected or capacity)
        _masked_kernel[(processors(rows.device),)](
            rows, weights, counts, out, experts, capacity, out.shape[2], depth, weights.stride(0),
            power_of_two(experts), block_rows, BLOCK_COLUMNS, PLAIN_DEPTH, depth % PLAIN_DEPTH == 0,
            num_warps=block_rows // 16, num_stages=4,
        )  # fmt: skip
    return out


def grouped_gemm_fp8_masked(
    rows: Tensor,
    row_scales: Tensor,
    weights: Tensor,
    weight_scales: Tensor,
    counts: Tensor,
    *,
    expected: int | None = None,
) -> Tensor:
    """Launch; shapes as in the reference."""
    experts, capacity, depth = rows.shape
    _check_masked(rows, weights, counts)
    row_scales = row_scales.contiguous()  # those of a dispatch lie column by column, as DeepGEMM wants them
    _check_scales(rows, row_scales, weights, weight_scales)
    out = torch.empty(experts, capacity, weights.shape[1], dtype=torch.bfloat16, device=rows.device)
    if out.numel():
        block_rows = masked_block_rows(expected or capacity)
        _masked_fp8_kernel[(processors(rows.device),)](
            rows, row_scales, weights, weight_scales, counts, out, experts, capacity, out.shape[2], depth,
            weights.stride(0), weight_scales.stride(0), row_scales.shape[2], power_of_two(experts),
            block_rows, BLOCK_COLUMNS, depth % 128 == 0, num_warps=block_rows // 16, num_stages=4,
        )  # fmt: skip
    return out


def masked_block_rows(expected: int) -> int:
    """Rows of a tile: few where few are expected, so that the matrix units do not multiply padding."""
    return min(max(power_of_two(expected), MIN_BLOCK_ROWS), MAX_BLOCK_ROWS)


def _contiguous(rows: Tensor, weights: Tensor, tiles: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    count, depth = rows.shape
    assert rows.is_contiguous(), "rows and weights must be contiguous"
    assert weights.is_contiguous(), "rows and weights must be contiguous"
    assert weights.shape[2] == depth, f"rows {list(rows.shape)} against weights {list(weights.shape)}"
    assert tiles.shape[0] > 0, f"{count} rows in {tiles.shape[0]} tiles"
    assert count % tiles.shape[0] == 0, f"{count} rows in {tiles.shape[0]} tiles"
    alignment = count // tiles.shape[0]
    assert alignment >= 16, f"alignment {alignment}"
    assert alignment == power_of_two(alignment), f"alignment {alignment}"
    out = torch.empty(count, weights.shape[1], dtype=dtype, device=rows.device)
    return out, min(alignment, MAX_BLOCK_ROWS)


def _check_masked(rows: Tensor, weights: Tensor, counts: Tensor) -> None:
    assert rows.is_contiguous(), "rows and weights must be contiguous"
    assert weights.is_contiguous(), "rows and weights must be contiguous"
    assert weights.shape[::2] == rows.shape[::2], f"rows {list(rows.shape)}, weights {list(weights.shape)}"
    assert counts.shape == rows.shape[:1], "one count an expert"


def _check_scales(rows: Tensor, row_scales: Tensor, weights: Tensor, weight_scales: Tensor) -> None:
    groups = ceil_div(rows.shape[-1], 128)
    expected = (weights.shape[0], ceil_div(weights.shape[1], 128), groups)
    assert row_scales.is_contiguous(), "factors must be contiguous"
    assert weight_scales.is_contiguous(), "factors must be contiguous"
    assert row_scales.shape == (*rows.shape[:-1], groups), f"row_scales {list(row_scales.shape)}"
    assert weight_scales.shape == expected, f"weight_scales {list(weight_scales.shape)}, not {expected}"


@jit
def _contiguous_tile(
    tile_experts: Pointer, row_tiles: Number, column_tiles: Number, tiles_a_group: Number
) -> tuple[Tile, Tile, Tile]:
    """This program's expert and its tile's place, in stripes so that rows and weights stay cached."""
    program = tl.program_id(0)
    stripe = program // (STRIPE * column_tiles)
    height = tl.minimum(row_tiles - stripe * STRIPE, STRIPE)
    inside = program % (STRIPE * column_tiles)
    row_tile = stripe * STRIPE + inside % height
    return tl.load(tile_experts + row_tile // tiles_a_group), row_tile, inside // height


@jit
def _masked_tile(
    counts: Pointer,
    tile: Number,
    experts: Number,
    column_tiles: Number,
    block_rows: tl.constexpr,
    block_experts: tl.constexpr,
) -> tuple[Tile, Tile, Tile, Tile]:
    """Expert, its rows, row tile and column tile of the `tile`-th tile that has rows."""
    expert = tl.arange(0, block_experts)
    rows = tl.load(counts + expert, mask=expert < experts, other=0)
    sizes = tl.cdiv(rows, block_rows) * column_tiles
    owner = tl.sum((tl.cumsum(sizes, 0) <= tile).to(tl.int32), 0)
    inside = tile - tl.sum(tl.where(expert < owner, sizes, 0), 0)
    count = tl.sum(tl.where(expert == owner, rows, 0), 0)
    row_tiles = tl.cdiv(count, block_rows)
    return owner.to(tl.int64), count, inside % row_tiles, inside // row_tiles


@jit
def _live_tiles(
    counts: Pointer,
    experts: Number,
    column_tiles: Number,
    block_rows: tl.constexpr,
    block_experts: tl.constexpr,
) -> Tile:
    expert = tl.arange(0, block_experts)
    rows = tl.load(counts + expert, mask=expert < experts, other=0)
    return tl.sum(tl.cdiv(rows, block_rows), 0) * column_tiles


@jit
def _store(
    out: Pointer,
    total: Tile,
    row: Tile,
    column: Tile,
    rows: Number,
    width: Number,
) -> None:
    mask = (row < rows)[:, None] & (column < width)[None, :]
    target = out + (row.to(tl.int64) * width)[:, None] + column[None, :]
    tl.store(target, rounded(total, out.dtype.element_ty), mask=mask)


@jit
def _contiguous_kernel(
    rows: Pointer,  # [n, depth]
    weights: Pointer,  # [experts, width, depth]
    tile_experts: Pointer,  # [n / alignment] int32
    out: Pointer,  # [n, width]
    width: Number, depth: Number, row_tiles: Number, expert_values: Number, tiles_a_group: Number,
    block_rows: tl.constexpr, block_columns: tl.constexpr, block_depth: tl.constexpr, even: tl.constexpr,
) -> None:  # fmt: skip
    expert, row_tile, column_tile = _contiguous_tile(
        tile_experts, row_tiles, tl.cdiv(width, block_columns), tiles_a_group
    )
    if expert < 0:
        return
    row = row_tile * block_rows + tl.arange(0, block_rows)
    column = column_tile * block_columns + tl.arange(0, block_columns)
    weight = weights + expert.to(tl.int64) * expert_values + (column % width).to(tl.int64) * depth
    total = plain_tile(
        rows + row.to(tl.int64) * depth, weight, 0, depth, block_rows, block_columns, block_depth, even
    )
    _store(out, total, row, column, row_tiles * block_rows, width)


@jit
def _contiguous_fp8_kernel(
    rows: Pointer,  # [n, depth] float8_e4m3fn
    row_scales: Pointer,  # [n, groups] float32
    weights: Pointer,  # [experts, width, depth] float8_e4m3fn
    weight_scales: Pointer,  # [experts, ceil(width / 128), groups] float32
    tile_experts: Pointer,  # [n / alignment] int32
    out: Pointer,  # [n, width] bfloat16
    width: Number, depth: Number, row_tiles: Number, expert_values: Number, expert_scales: Number,
    groups: Number, tiles_a_group: Number,
    block_rows: tl.constexpr, block_columns: tl.constexpr, even: tl.constexpr,
) -> None:  # fmt: skip
    expert, row_tile, column_tile = _contiguous_tile(
        tile_experts, row_tiles, tl.cdiv(width, block_columns), tiles_a_group
    )
    if expert < 0:
        return
    row = row_tile * block_rows + tl.arange(0, block_rows)
    column = column_tile * block_columns + tl.arange(0, block_columns)
    weight = weights + expert.to(tl.int64) * expert_values + (column % width).to(tl.int64) * depth
    scales = weight_scales + expert.to(tl.int64) * expert_scales + column_tile * block_columns // 128 * groups
    total = fp8_tile(
        rows + row.to(tl.int64) * depth, row_scales + row.to(tl.int64) * groups, weight, scales, 0, depth,
        block_rows, block_columns, even,
    )  # fmt: skip
    _store(out, total, row, column, row_tiles * block_rows, width)


@jit
def _masked_kernel(
    rows: Pointer,  # [experts, capacity, depth]
    weights: Pointer,  # [experts, width, depth]
    counts: Pointer,  # [experts] int32
    out: Pointer,  # [experts, capacity, width]
    experts: Number, capacity: Number, width: Number, depth: Number, expert_values: Number,
    block_experts: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
    block_depth: tl.constexpr, even: tl.constexpr,
) -> None:  # fmt: skip
    column_tiles = tl.cdiv(width, block_columns)
    tiles = _live_tiles(counts, experts, column_tiles, block_rows, block_experts)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        expert, count, row_tile, column_tile = _masked_tile(
            counts, tile, experts, column_tiles, block_rows, block_experts
        )
        row = row_tile * block_rows + tl.arange(0, block_rows)
        column = column_tile * block_columns + tl.arange(0, block_columns)
        places = rows + (expert * capacity + row % capacity) * depth
        weight = weights + expert * expert_values + (column % width).to(tl.int64) * depth
        total = plain_tile(places, weight, 0, depth, block_rows, block_columns, block_depth, even)
        _store(out + expert * capacity * width, total, row, column, count, width)


@jit
def _masked_fp8_kernel(
    rows: Pointer,  # [experts, capacity, depth] float8_e4m3fn
    row_scales: Pointer,  # [experts, capacity, groups] float32
    weights: Pointer,  # [experts, width, depth] float8_e4m3fn
    weight_scales: Pointer,  # [experts, ceil(width / 128), groups] float32
    counts: Pointer,  # [experts] int32
    out: Pointer,  # [experts, capacity, width] bfloat16
    experts: Number, capacity: Number, width: Number, depth: Number, expert_values: Number,
    expert_scales: Number, groups: Number,
    block_experts: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr, even: tl.constexpr,
) -> None:  # fmt: skip
    column_tiles = tl.cdiv(width, block_columns)
    tiles = _live_tiles(counts, experts, column_tiles, block_rows, block_experts)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        expert, count, row_tile, column_tile = _masked_tile(
            counts, tile, experts, column_tiles, block_rows, block_experts
        )
        row = row_tile * block_rows + tl.arange(0, block_rows)
        column = column_tile * block_columns + tl.arange(0, block_columns)
        first = expert * capacity + row % capacity
        weight = weights + expert * expert_values + (column % width).to(tl.int64) * depth
        scales = weight_scales + expert * expert_scales + column_tile * block_columns // 128 * groups
        total = fp8_tile(
            rows + first * depth, row_scales + first * groups, weight, scales, 0, depth, block_rows,
            block_columns, even,
        )  # fmt: skip
        _store(out + expert * capacity * width, total, row, column, count, width)

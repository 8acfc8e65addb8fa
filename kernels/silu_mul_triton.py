"""The gated activation on a GPU: a program takes 128 columns of a tile of one expert's rows.

The flat forms are the masked ones with a single expert that fills its rows.
"""

import torch
import triton.language as tl
from torch import Tensor

from .fp8 import FP8, GROUP
from .fp8_triton import quantised
from .jit import Number, Pointer, Tile, ceil_div, jit, power_of_two, rounded

BLOCK_ROWS = 16
COLUMNS = tl.constexpr(GROUP)


def silu_mul(gate_up: Tensor) -> Tensor:
    """Launch; shapes as in the reference."""
    assert gate_up.ndim == 2, f"{list(gate_up.shape)} is not [tokens, 2 * width]"
    return _plain(gate_up.unsqueeze(0), None).squeeze(0)


def silu_mul_masked(gate_up: Tensor, counts: Tensor) -> Tensor:
    """Launch; shapes as in the reference."""
    return _plain(gate_up, counts)


def silu_mul_quantise(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Launch; shapes as in the reference."""
    assert gate_up.ndim == 2, f"{list(gate_up.shape)} is not [tokens, 2 * width]"
    values, scales = _quantised(gate_up.unsqueeze(0), None)
    return values.squeeze(0), scales.squeeze(0)


def silu_mul_quantise_masked(gate_up: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Launch; shapes as in the reference."""
    return _quantised(gate_up, counts)


def _plain(gate_up: Tensor, counts: Tensor | None) -> Tensor:
    experts, capacity, width = _checked(gate_up, counts)
    out = gate_up.new_empty(experts, capacity, width)
    if out.numel():
        grid, block_rows = _grid(experts, capacity, width)
        _silu_mul_kernel[grid](
            gate_up, counts, out, capacity, width, gate_up.stride(1), block_rows, num_warps=4
        )
    return out


def _quantised(gate_up: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    experts, capacity, width = _checked(gate_up, counts)
    groups = ceil_div(width, GROUP)
    values = torch.empty(experts, capacity, width, dtype=FP8, device=gate_up.device)
    scales = torch.empty(experts, capacity, groups, dtype=torch.float32, device=gate_up.device)
    if values.numel():
        grid, block_rows = _grid(experts, capacity, width)
        _silu_mul_quantise_kernel[grid](
            gate_up, counts, values, scales, capacity, width, gate_up.stride(1), groups, block_rows,
            num_warps=4,
        )  # fmt: skip
    return values, scales


def _checked(gate_up: Tensor, counts: Tensor | None) -> tuple[int, int, int]:
    experts, capacity, twice = gate_up.shape
    assert twice % 2 == 0, f"{twice} columns do not halve"
    assert gate_up.stride(2) == 1, "rows must be dense"
    assert experts == 1 or gate_up.stride(0) == capacity * gate_up.stride(1), "experts must follow each other"
    assert counts is None or counts.shape == (experts,), "one count an expert"
    return experts, capacity, twice // 2


def _grid(experts: int, capacity: int, width: int) -> tuple[tuple[int, int, int], int]:
    block_rows = min(power_of_two(capacity), BLOCK_ROWS)
    return (ceil_div(capacity, block_rows), ceil_div(width, GROUP), experts), block_rows


@jit
def _activated(gate_up: Pointer, row: Tile, mask: Tile, column: Tile, width: Number, stride: Number) -> Tile:
    place = gate_up + (row * stride)[:, None] + column[None, :]
    gate = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(place + width, mask=mask, other=0.0).to(tl.float32)
    return gate / (1.0 + tl.exp(-gate)) * up


@jit
def _silu_mul_kernel(
    gate_up: Pointer,  # [experts, capacity, 2 * width]
    counts: Pointer,  # [experts] int32, or None
    out: Pointer,  # [experts, capacity, width]
    capacity: Number,
    width: Number,
    stride: Number,
    block_rows: tl.constexpr,
) -> None:
    expert = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * block_rows
    count = capacity
    if counts is not None:
        count = tl.load(counts + expert)
    if first >= count:
        return
    offset = first + tl.arange(0, block_rows)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (offset < count)[:, None] & (column < width)[None, :]
    row = expert * capacity + offset
    value = _activated(gate_up, row, mask, column, width, stride)
    tl.store(out + (row * width)[:, None] + column[None, :], rounded(value, out.dtype.element_ty), mask=mask)


@jit
def _silu_mul_quantise_kernel(
    gate_up: Pointer,  # [experts, capacity, 2 * width]
    counts: Pointer,  # [experts] int32, or None
    values: Pointer,  # [experts, capacity, width] float8_e4m3fn
    scales: Pointer,  # [experts, capacity, groups] float32
    capacity: Number,
    width: Number,
    stride: Number,
    groups: Number,
    block_rows: tl.constexpr,
) -> None:
    expert = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * block_rows
    count = capacity
    if counts is not None:
        count = tl.load(counts + expert)
    if first >= count:
        return
    offset = first + tl.arange(0, block_rows)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    live = offset < count
    mask = live[:, None] & (column < width)[None, :]
    row = expert * capacity + offset
    value, scale = quantised(_activated(gate_up, row, mask, column, width, stride))
    target = values + (row * width)[:, None] + column[None, :]
    tl.store(target, rounded(value, values.dtype.element_ty), mask=mask)
    tl.store(scales + row * groups + tl.program_id(1), scale, mask=live)

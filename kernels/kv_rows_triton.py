"""Rows of the KV pool on a GPU: tokens are written, tokens or whole blocks gathered and scattered.

A whole block is a row too, of the pool seen as `[blocks, values of a block]`. Rows that occur more than once,
such as the null block's, end up holding one of the values written to them.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from .jit import Number, Pointer, ceil_div, jit, power_of_two, rounded

MAX_PIECE = 4096  # values that a program moves


def write_rows(pool: Tensor, rows: Tensor, values: Tensor) -> None:
    """Launch; shapes as in the reference."""
    assert pool.is_contiguous(), "the pool is one contiguous tensor"
    values = values.flatten(0, -2)
    assert values.shape[0] == rows.shape[0], f"{values.shape[0]} values for {rows.shape[0]} rows"
    width = values.shape[1]
    _launch(_write_kernel, pool, rows, values, width, values.stride(0), values.stride(1))


def read_rows(pool: Tensor, rows: Tensor, width: int) -> Tensor:
    """Launch; shapes as in the reference."""
    assert pool.is_contiguous(), "the pool is one contiguous tensor"
    out = pool.new_empty(rows.shape[0], width)
    _launch(_read_kernel, pool, rows, out, width, width, 1)
    return out


def _launch(kernel: Any, pool: Tensor, rows: Tensor, values: Tensor, width: int, *strides: int) -> None:
    assert strides[1] == 1, "rows must be dense"
    assert rows.dtype is torch.int64, f"rows are {rows.dtype}, not int64"
    if rows.shape[0] == 0:
        return
    block = min(power_of_two(width), MAX_PIECE)
    grid = (rows.shape[0], ceil_div(width, block))
    kernel[grid](pool, rows, values, width, strides[0], block, num_warps=min(max(block // 512, 1), 8))


@jit
def _write_kernel(
    pool: Pointer,  # [-1, width]
    rows: Pointer,  # [n] int64
    values: Pointer,  # [n, width]
    width: Number,
    value_row: Number,
    block: tl.constexpr,
) -> None:
    index = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    mask = column < width
    row = tl.load(rows + index)
    value = tl.load(values + index * value_row + column, mask=mask)
    tl.store(pool + row * width + column, rounded(value, pool.dtype.element_ty), mask=mask)


@jit
def _read_kernel(
    pool: Pointer,  # [-1, width]
    rows: Pointer,  # [n] int64
    values: Pointer,  # [n, width], written
    width: Number,
    value_row: Number,
    block: tl.constexpr,
) -> None:
    index = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    mask = column < width
    row = tl.load(rows + index)
    tl.store(values + index * value_row + column, tl.load(pool + row * width + column, mask=mask), mask=mask)

"""What every Triton file of this folder starts from.

Triton's CPU interpreter differs from a GPU in two ways that kernels must know of: its dot product of bfloat16
operands is wrong (operands are widened here before they reach it), and its conversions truncate instead of
rounding to the nearest value, so `rounded` rounds to bfloat16 and FP8 first (tests allow for float16).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import torch
import triton
import triton.language as tl

# Triton's compiler looks annotations up and knows its own types only.
Pointer: TypeAlias = tl.tensor
"""The first element of a tensor."""
Number: TypeAlias = tl.tensor
"""A scalar known at launch: a size, a stride in elements, a factor."""
Tile: TypeAlias = tl.tensor
"""A block of values inside a kernel."""

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


def jit(function: Callable[..., Any]) -> Any:
    """Mark a kernel, or a function that kernels call."""
    return triton.jit(function)


@jit
def dot(a: Tile, b: Tile) -> Tile:
    """Matrix product in float32; products of float32 operands are exact to float32, not to tf32."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@jit
def dot_add(a: Tile, b: Tile, total: Tile) -> Tile:
    """`dot`, added to a float32 tile."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    return tl.dot(a, b, total, input_precision="ieee")


@jit
def rounded(value: Tile, dtype: tl.constexpr) -> Tile:
    """Convert to the nearest value of a format, to even where two are; to FP8 at most its largest."""
    if dtype == tl.float8e4nv:
        value = tl.minimum(tl.maximum(value.to(tl.float32), -448.0), 448.0)
    if INTERPRETED:
        if dtype == tl.float8e4nv:
            small = (value + 24576.0) - 24576.0  # at 1.5 * 2**14 float32 has steps of 2**-9, as FP8 near 0
            value = tl.where(tl.abs(value) < 0.015625, small, _nearest(value, 20))
        if dtype == tl.bfloat16:
            value = _nearest(value.to(tl.float32), 16)
    return value.to(dtype)


@jit
def _nearest(value: Tile, dropped: tl.constexpr) -> Tile:
    """Round float32 so that its last `dropped` bits are zero."""
    bits = value.to(tl.int32, bitcast=True)
    half = (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1)
    return ((bits + half) & -(1 << dropped)).to(tl.float32, bitcast=True)


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`: Triton's tiles have no other sizes."""
    return 1 << max(0, size - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    """`a / b`, rounded up."""
    return -(-a // b)


WITHOUT_GPU = {"processors": 3}
"""What is assumed where there is no GPU: few enough for the interpreter to send loops round."""


def processors(device: torch.device) -> int:
    """Multiprocessors of the GPU."""
    return _multiprocessors(device.index) if device.type == "cuda" else WITHOUT_GPU["processors"]


@lru_cache
def _multiprocessors(index: int | None) -> int:
    return int(torch.cuda.get_device_properties(index or 0).multi_processor_count)

"""RMS norm on a GPU: a program normalises a tile of rows and reads each value once."""

import torch
import triton.language as tl
from torch import Tensor

from .jit import Number, Pointer, ceil_div, jit, power_of_two, rounded

TILE_VALUES = 4096


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Launch; shapes as in the reference."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(x, out, weight, eps)
    return out


def rms_norm_(x: Tensor, weight: Tensor, eps: float) -> None:
    """Launch in place; shapes as in the reference."""
    _launch(x, x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Launch; shapes as in the reference."""
    tokens, width = x.shape
    assert residual.shape == x.shape, f"residual {list(residual.shape)} against x {list(x.shape)}"
    assert x.stride(1) == residual.stride(1) == weight.stride(0) == 1, "rows must be dense"
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if tokens:
        block = power_of_two(width)
        _add_rms_norm_kernel[(tokens,)](
            x, residual, weight, out, x.stride(0), residual.stride(0), width, eps, block,
            num_warps=_warps(block),
        )  # fmt: skip
    return out


def _launch(x: Tensor, out: Tensor, weight: Tensor, eps: float) -> None:
    heads = x.shape[1] if x.ndim == 3 else 1
    if x.ndim not in {2, 3}:
        x, out = x.view(-1, x.shape[-1]), out.view(-1, x.shape[-1])
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    assert x.stride(-1) == out.stride(-1) == weight.stride(-1) == 1, "rows must be dense"
    assert weight.ndim == 1 or weight.shape == (heads, width), (
        f"weight {list(weight.shape)} for {heads} heads"
    )
    if rows == 0:
        return
    block = power_of_two(width)
    block_rows = max(1, min(TILE_VALUES // block, power_of_two(rows)))
    _rms_norm_kernel[(ceil_div(rows, block_rows),)](
        x, out, weight, rows, heads, width,
        x.stride(0), x.stride(1), out.stride(0), out.stride(1), weight.stride(0) if weight.ndim == 2 else 0,
        eps, block_rows, block, num_warps=_warps(block * block_rows),
    )  # fmt: skip


def _warps(values: int) -> int:
    """16 bytes of bfloat16 a thread and access, two accesses a thread."""
    return min(max(values // 512, 1), 16)


@jit
def _rms_norm_kernel(
    x: Pointer,  # [rows / heads, heads, width]
    out: Pointer,  # likewise, or x itself
    weight: Pointer,  # [width] or [heads, width]
    rows: Number,
    heads: Number,
    width: Number,
    x_token: Number,
    x_head: Number,
    out_token: Number,
    out_head: Number,
    weight_head: Number,
    eps: Number,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    column = tl.arange(0, block)
    token, head = row // heads, row % heads
    mask = (row < rows)[:, None] & (column < width)[None, :]
    values = tl.load(x + (token * x_token + head * x_head)[:, None] + column[None, :], mask=mask, other=0.0)
    wide = values.to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(wide * wide, 1) / width + eps)
    factors = tl.load(weight + (head * weight_head)[:, None] + column[None, :], mask=mask, other=0.0)
    normalised = rounded(wide * factor[:, None], values.dtype).to(tl.float32) * factors.to(tl.float32)
    target = out + (token * out_token + head * out_head)[:, None] + column[None, :]
    tl.store(target, rounded(normalised, values.dtype), mask=mask)


@jit
def _add_rms_norm_kernel(
    x: Pointer,  # [tokens, width]
    residual: Pointer,  # [tokens, width], read and written
    weight: Pointer,  # [width]
    out: Pointer,  # [tokens, width], dense
    x_token: Number,
    residual_token: Number,
    width: Number,
    eps: Number,
    block: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    mask = column < width
    added = tl.load(x + token * x_token + column, mask=mask, other=0.0)
    kept = tl.load(residual + token * residual_token + column, mask=mask, other=0.0)
    values = rounded(added.to(tl.float32) + kept.to(tl.float32), added.dtype)
    tl.store(residual + token * residual_token + column, values, mask=mask)
    wide = values.to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / width + eps)
    factors = tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    normalised = rounded(wide * factor, added.dtype).to(tl.float32) * factors
    tl.store(out + token * width + column, rounded(normalised, added.dtype), mask=mask)

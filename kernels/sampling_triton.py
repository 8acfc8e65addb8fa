"""Choosing tokens on a GPU: every row is cut into chunks, so that few rows fill the GPU too.

A first kernel reduces each chunk to one number, a second walks over a row's chunks. Weights are integers, so
their sums are exact however they are cut, and a row's draw does not depend on the batch.
"""

import torch
import triton.language as tl
from torch import Tensor

from .jit import Number, Pointer, Tile, ceil_div, jit, power_of_two
from .sampling import WEIGHT_BITS

CHUNK = 4096
NONE = tl.constexpr(1 << 30)
HEAVIEST = tl.constexpr(float(1 << WEIGHT_BITS))


def best_tokens(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Launch; shapes as in the reference."""
    rows, vocab = logits.shape
    assert logits.stride(1) == 1, "rows must be dense"
    chunk, chunks = _chunks(vocab)
    values = torch.empty(rows, chunks, dtype=torch.float32, device=logits.device)
    ids = torch.empty(rows, chunks, dtype=torch.int32, device=logits.device)
    best = torch.empty(rows, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        _chunk_best_kernel[(chunks, rows)](logits, values, ids, logits.stride(0), vocab, chunk, num_warps=4)
        _row_best_kernel[(rows,)](values, ids, best, tokens, chunks, power_of_two(chunks), num_warps=1)
    return best, tokens


def token_weights(logits: Tensor, temperature: Tensor, min_p: Tensor | None) -> Tensor:
    """Launch; shapes as in the reference."""
    rows, vocab = logits.shape
    weights = torch.empty(rows, vocab, dtype=torch.int64, device=logits.device)
    if rows:
        best, _ = best_tokens(logits)
        chunk, chunks = _chunks(vocab)
        _weights_kernel[(chunks, rows)](
            logits, best, temperature, min_p, weights, logits.stride(0), vocab, chunk, num_warps=4
        )
    return weights


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Launch; shapes as in the reference."""
    rows, vocab = weights.shape
    assert weights.stride(1) == 1, "rows must be dense"
    assert uniforms.dtype is torch.float64, f"uniforms are {uniforms.dtype}, not float64"
    chunk, chunks = _chunks(vocab)
    sums = torch.empty(rows, chunks, dtype=torch.int64, device=weights.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=weights.device)
    if rows:
        _chunk_sum_kernel[(chunks, rows)](weights, sums, weights.stride(0), vocab, chunk, num_warps=4)
        _draw_kernel[(rows,)](
            weights, sums, uniforms, tokens, weights.stride(0), vocab, chunks, chunk, power_of_two(chunks),
            num_warps=4,
        )  # fmt: skip
    return tokens


def _chunks(vocab: int) -> tuple[int, int]:
    chunk = min(power_of_two(vocab), CHUNK)
    return chunk, ceil_div(vocab, chunk)


@jit
def _largest(value: Tile) -> Tile:
    """The largest value, or NaN where there is one: a plain maximum passes over it."""
    is_nan = value != value  # noqa: PLR0124  nothing else differs from itself
    best = tl.max(tl.where(is_nan, float("-inf"), value), 0)
    return tl.where(tl.max(is_nan.to(tl.int32), 0) > 0, float("nan"), best)


@jit
def _chunk_best_kernel(
    logits: Pointer,  # [rows, vocab] float32
    values: Pointer,  # [rows, chunks] float32
    ids: Pointer,  # [rows, chunks] int32
    stride: Number,
    vocab: Number,
    chunk: tl.constexpr,
) -> None:
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * chunk + tl.arange(0, chunk)
    value = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf"))
    best = _largest(value)
    place = row * tl.num_programs(0) + tl.program_id(0)
    tl.store(values + place, best)
    tl.store(ids + place, tl.min(tl.where((value == best) & (column < vocab), column, NONE), 0))


@jit
def _row_best_kernel(
    values: Pointer,  # [rows, chunks] float32
    ids: Pointer,  # [rows, chunks] int32
    best: Pointer,  # [rows] float32
    tokens: Pointer,  # [rows] int64
    chunks: Number,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, block)
    value = tl.load(values + row * chunks + chunk, mask=chunk < chunks, other=float("-inf"))
    index = tl.load(ids + row * chunks + chunk, mask=chunk < chunks, other=NONE)
    top = _largest(value)
    tl.store(best + row, top)
    tl.store(tokens + row, tl.min(tl.where(value == top, index, NONE), 0).to(tl.int64))


@jit
def _weights_kernel(
    logits: Pointer,  # [rows, vocab] float32
    best: Pointer,  # [rows] float32
    temperature: Pointer,  # [rows] float64
    min_p: Pointer,  # [rows] float64, or None
    weights: Pointer,  # [rows, vocab] int64
    stride: Number,
    vocab: Number,
    chunk: tl.constexpr,
) -> None:
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * chunk + tl.arange(0, chunk)
    mask = column < vocab
    value = tl.load(logits + row * stride + column, mask=mask, other=float("-inf"))
    relative = tl.exp((value - tl.load(best + row)).to(tl.float64) / tl.load(temperature + row))
    if min_p is not None:
        relative = tl.where(relative < tl.load(min_p + row), 0.0, relative)
    tl.store(weights + row * vocab + column, (relative * HEAVIEST).to(tl.int64), mask=mask)


@jit
def _chunk_sum_kernel(
    weights: Pointer,  # [rows, vocab] int64
    sums: Pointer,  # [rows, chunks] int64
    stride: Number,
    vocab: Number,
    chunk: tl.constexpr,
) -> None:
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * chunk + tl.arange(0, chunk)
    weight = tl.load(weights + row * stride + column, mask=column < vocab, other=0)
    tl.store(sums + row * tl.num_programs(0) + tl.program_id(0), tl.sum(weight, 0))


@jit
def _draw_kernel(
    weights: Pointer,  # [rows, vocab] int64
    sums: Pointer,  # [rows, chunks] int64
    uniforms: Pointer,  # [rows] float64
    tokens: Pointer,  # [rows] int64
    stride: Number,
    vocab: Number,
    chunks: Number,
    chunk: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, block)
    part = tl.load(sums + row * chunks + index, mask=index < chunks, other=0)
    ends = tl.cumsum(part, 0)
    total = tl.sum(part, 0)
    target = tl.minimum((total.to(tl.float64) * tl.load(uniforms + row)).to(tl.int64), total - 1)
    holder = tl.sum((ends <= target).to(tl.int32), 0)  # the first chunk whose end exceeds the target
    before = tl.sum(tl.where(index < holder, part, 0), 0)
    column = holder * chunk + tl.arange(0, chunk)
    weight = tl.load(weights + row * stride + column, mask=column < vocab, other=0)
    passed = before + tl.cumsum(weight, 0) <= target
    token = holder * chunk + tl.sum(passed.to(tl.int32), 0)
    tl.store(tokens + row, tl.minimum(token, vocab - 1).to(tl.int64))

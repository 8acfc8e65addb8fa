"""Grouping by expert on a GPU: a program takes one expert and walks over all pairs, twice.

The first kernel counts, the second knows where every expert starts and hands out rows in order of token: no
atomics, so the same routing gives the same rows every time.
"""

import torch
import triton.language as tl
from torch import Tensor

from ..jit import Number, Pointer, ceil_div, jit, power_of_two, rounded
from .routes import Routes, contiguous_capacity

BLOCK_PAIRS = 1024
PIECE = 2048  # values of a row that a program moves


def route_contiguous(ids: Tensor, owned: range, alignment: int) -> Routes:
    """Launch; shapes as in the reference."""
    rows = contiguous_capacity(ids.numel(), len(owned), alignment)
    return _launch(ids, owned, rows, alignment, capacity=0)


def route_masked(ids: Tensor, owned: range, capacity: int) -> Routes:
    """Launch; shapes as in the reference."""
    assert capacity >= ids.shape[0], f"capacity {capacity} for {ids.shape[0]} tokens"
    return _launch(ids, owned, len(owned) * capacity, 1, capacity)


def permute(x: Tensor, routes: Routes) -> Tensor:
    """Launch; shapes as in the reference."""
    assert x.stride(1) == 1, "rows must be dense"
    (tokens, top_k), width = routes.positions.shape, x.shape[1]
    out = x.new_empty(routes.rows, width)
    if x.numel():
        block = min(power_of_two(width), PIECE)
        _permute_kernel[(tokens * top_k, ceil_div(width, block))](
            x, routes.positions, out, width, x.stride(0), top_k, block, num_warps=4
        )
    return out


def unpermute(outputs: Tensor, routes: Routes, weights: Tensor) -> Tensor:
    """Launch; shapes as in the reference."""
    assert outputs.is_contiguous(), "outputs and weights must be contiguous"
    assert weights.is_contiguous(), "outputs and weights must be contiguous"
    (tokens, top_k), hidden = weights.shape, outputs.shape[1]
    out = outputs.new_empty(tokens, hidden)
    if out.numel():
        block = min(power_of_two(hidden), PIECE)
        _unpermute_kernel[(tokens, ceil_div(hidden, block))](
            outputs, routes.positions, weights, out, hidden, top_k, block, num_warps=4
        )
    return out


def _launch(ids: Tensor, owned: range, rows: int, alignment: int, capacity: int) -> Routes:
    assert ids.is_contiguous(), "ids must be contiguous"
    experts, pairs, device = len(owned), ids.numel(), ids.device
    positions = torch.full(ids.shape, -1, dtype=torch.int32, device=device)
    counts = torch.zeros(experts, dtype=torch.int32, device=device)
    tiles = None if capacity else torch.full((rows // alignment,), -1, dtype=torch.int32, device=device)
    if pairs and experts:
        block = min(power_of_two(pairs), BLOCK_PAIRS)
        _count_kernel[(experts,)](ids, counts, pairs, owned.start, block, num_warps=4)
        _place_kernel[(experts,)](
            ids, counts, positions, tiles, pairs, owned.start, experts, capacity, alignment,
            power_of_two(experts), block, num_warps=4,
        )  # fmt: skip
    return Routes(rows, positions, counts, tiles)


@jit
def _count_kernel(
    ids: Pointer,  # [pairs] int64
    counts: Pointer,  # [experts] int32
    pairs: Number,
    first_expert: Number,
    block: tl.constexpr,
) -> None:
    expert = tl.program_id(0)
    total = tl.zeros([block], tl.int32)
    for begin in range(0, pairs, block):
        pair = begin + tl.arange(0, block)
        chosen = tl.load(ids + pair, mask=pair < pairs, other=-1)
        total += ((chosen == expert + first_expert) & (pair < pairs)).to(tl.int32)
    tl.store(counts + expert, tl.sum(total, 0))


@jit
def _place_kernel(
    ids: Pointer,  # [pairs] int64
    counts: Pointer,  # [experts] int32
    positions: Pointer,  # [pairs] int32
    tiles: Pointer,  # [rows / alignment] int32, or None for the masked layout
    pairs: Number,
    first_expert: Number,
    experts: Number,
    capacity: Number,
    alignment: tl.constexpr,
    block_experts: tl.constexpr,
    block: tl.constexpr,
) -> None:
    expert = tl.program_id(0)
    row = expert * capacity
    if tiles is not None:
        other = tl.arange(0, block_experts)
        rows = tl.load(counts + other, mask=other < experts, other=0)
        used = tl.cdiv(rows, alignment)
        first_tile = tl.sum(tl.where(other < expert, used, 0), 0)
        own_tiles = tl.sum(tl.where(other == expert, used, 0), 0)
        row = first_tile * alignment
        for begin in range(0, own_tiles, block):
            tile = begin + tl.arange(0, block)
            tl.store(tiles + first_tile + tile, expert + tl.zeros([block], tl.int32), mask=tile < own_tiles)
    for begin in range(0, pairs, block):
        pair = begin + tl.arange(0, block)
        chosen = tl.load(ids + pair, mask=pair < pairs, other=-1)
        hit = (chosen == expert + first_expert) & (pair < pairs)
        place = row + tl.cumsum(hit.to(tl.int32), 0) - 1
        tl.store(positions + pair, place, mask=hit)
        row += tl.sum(hit.to(tl.int32), 0)


@jit
def _permute_kernel(
    x: Pointer,  # [tokens, width]
    positions: Pointer,  # [tokens * top_k] int32
    out: Pointer,  # [rows, width]
    width: Number,
    x_token: Number,
    top_k: Number,
    block: tl.constexpr,
) -> None:
    pair = tl.program_id(0).to(tl.int64)
    row = tl.load(positions + pair).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    mask = column < tl.where(row >= 0, width, 0)
    value = tl.load(x + pair // top_k * x_token + column, mask=mask)
    tl.store(out + row * width + column, value, mask=mask)


@jit
def _unpermute_kernel(
    outputs: Pointer,  # [rows, hidden]
    positions: Pointer,  # [tokens, top_k] int32
    weights: Pointer,  # [tokens, top_k] float32
    out: Pointer,  # [tokens, hidden]
    hidden: Number,
    top_k: tl.constexpr,
    block: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros([block], tl.float32)
    for k in tl.static_range(top_k):
        row = tl.load(positions + token * top_k + k).to(tl.int64)
        mask = column < tl.where(row >= 0, hidden, 0)
        value = tl.load(outputs + row * hidden + column, mask=mask, other=0.0).to(tl.float32)
        total += value * tl.load(weights + token * top_k + k)
    tl.store(out + token * hidden + column, rounded(total, out.dtype.element_ty), mask=column < hidden)

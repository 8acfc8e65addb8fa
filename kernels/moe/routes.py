"""Where each routed pair's row lies among rows grouped by expert, worked out on the device.

Two layouts, both of shapes that depend on nothing but the batch size, so that a CUDA graph can hold them:

    contiguous  all rows in one matrix, expert after expert, each expert's rows from a multiple of `alignment`
    masked      `[experts, capacity]` rows, of which the first `counts[e]` are expert e's

`permute` fills rows from tokens, `unpermute` weights the experts' outputs and sums them for each token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..by_device import by_device


@dataclass(frozen=True, slots=True)
class Routes:
    """The way there and back."""

    rows: int
    """Rows of the grouped matrix, those that hold no token included"""
    positions: Tensor
    """[tokens, top_k] int32, the row of each routed pair; -1 for pairs of experts that are not owned"""
    counts: Tensor
    """[owned] int32, rows of each owned expert"""
    tile_experts: Tensor | None
    """Contiguous: [rows / alignment] int32, local expert of each `alignment` rows, -1 past the last"""


def contiguous_capacity(pairs: int, owned: int, alignment: int) -> int:
    """Rows that suffice for any routing of `pairs` pairs to `owned` experts, a multiple of `alignment`."""
    return (pairs // alignment + min(owned, pairs)) * alignment


@by_device
def route_contiguous(ids: Tensor, owned: range, alignment: int) -> Routes:
    """Group routed pairs by expert, each expert's in order of token, at aligned starts.

    ids   [tokens, top_k]   int64; experts outside `owned`, such as -1 of a dead row, get no row
    """
    local, counts = _local_experts(ids, owned)
    aligned = (counts + alignment - 1) // alignment * alignment
    starts = aligned.cumsum(0) - aligned
    rows = contiguous_capacity(ids.numel(), len(owned), alignment)
    tiles = torch.arange(0, rows, alignment, device=ids.device).unsqueeze(1)
    inside = (tiles >= starts) & (tiles < starts + aligned)
    tile_experts = torch.where(inside.any(1), inside.int().argmax(1), -1)
    return _routes(ids, local, counts, starts, rows, tile_experts.int())


@by_device
def route_masked(ids: Tensor, owned: range, capacity: int) -> Routes:
    """Group routed pairs by expert, each expert's in order of token from row `expert * capacity` on.

    ids   [tokens, top_k]   int64, distinct within a token, so that `capacity` of at least `tokens` suffices
    """
    assert capacity >= ids.shape[0], f"capacity {capacity} for {ids.shape[0]} tokens"
    local, counts = _local_experts(ids, owned)
    starts = torch.arange(len(owned), device=ids.device) * capacity
    return _routes(ids, local, counts, starts, len(owned) * capacity, None)


@by_device
def permute(x: Tensor, routes: Routes) -> Tensor:
    """Copy each token to the rows of its pairs; rows that hold no token are left as they come.

    x        [tokens, width]
    returns  [rows, width]   x.dtype
    """
    positions = routes.positions.flatten().long()
    rows = x.new_zeros(routes.rows + 1, x.shape[1])  # the last row takes what belongs nowhere
    rows[torch.where(positions >= 0, positions, routes.rows)] = x.repeat_interleave(
        routes.positions.shape[1], 0
    )
    return rows[: routes.rows]


@by_device
def unpermute(outputs: Tensor, routes: Routes, weights: Tensor) -> Tensor:
    """Return `sum over k of weights[t, k] * output of pair (t, k)`; pairs without a row add nothing.

    outputs  [rows, hidden]
    weights  [tokens, top_k]    float32
    returns  [tokens, hidden]   outputs.dtype, summed in float32
    """
    live = (routes.positions >= 0).unsqueeze(-1)
    pairs = outputs[routes.positions.clamp(min=0).long()].float().masked_fill(~live, 0.0)
    return (pairs * weights.unsqueeze(-1)).sum(1).to(outputs.dtype)


def _local_experts(ids: Tensor, owned: range) -> tuple[Tensor, Tensor]:
    """Local expert of each pair, `len(owned)` for others; and rows of each expert."""
    local = ids.flatten() - owned.start
    local = torch.where((local >= 0) & (local < len(owned)), local, len(owned))
    counts = torch.zeros(len(owned) + 1, dtype=torch.int64, device=ids.device)
    return local, counts.scatter_add_(0, local, torch.ones_like(local))[:-1]


def _routes(
    ids: Tensor, local: Tensor, counts: Tensor, starts: Tensor, rows: int, tile_experts: Tensor | None
) -> Routes:
    hits = local.unsqueeze(1) == torch.arange(counts.shape[0], device=ids.device)  # [pairs, owned]
    places = torch.where(hits, hits.cumsum(0) - 1 + starts, -1)
    return Routes(rows, places.amax(1).view(ids.shape).int(), counts.int(), tile_experts)

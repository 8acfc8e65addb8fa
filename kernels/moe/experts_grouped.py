"""The experts' gated MLPs as grouped products, for a GPU: frames of fixed shapes, weights plain or block-FP8.

FP8 weights take rows that are quantised too, and the activation between the products is quantised where it is
computed. Outputs are bfloat16 then.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..fp8 import Quantised, quantise_groups
from ..silu_mul import silu_mul, silu_mul_masked, silu_mul_quantise, silu_mul_quantise_masked
from .grouped_gemm import grouped_gemm, grouped_gemm_fp8, grouped_gemm_fp8_masked, grouped_gemm_masked
from .rows import BatchedRows, ContiguousRows, plain

if TYPE_CHECKING:
    from .experts import ExpertWeights

ALIGNMENT = 128
"""Rows of a tile in the contiguous layout: a multiple suits every kernel, DeepGEMM's too."""


def masked(
    rows: Tensor | Quantised, counts: Tensor, weights: "ExpertWeights", expected: int | None = None
) -> Tensor:
    """Run each expert over the first `counts[e]` of its rows: `[experts, capacity, hidden]`.

    rows      [experts, capacity, hidden]; quantised where the weights are
    expected  rows of an expert, where the caller knows better than `capacity`
    """
    if isinstance(rows, Tensor):
        hidden = grouped_gemm_masked(rows, weights.gate_up, counts, expected=expected)
        activated = silu_mul_masked(hidden, counts)
        return grouped_gemm_masked(activated, weights.down, counts, expected=expected)
    gate_up_scales, down_scales = _scales(weights)
    hidden = grouped_gemm_fp8_masked(*rows, weights.gate_up, gate_up_scales, counts, expected=expected)
    quantised = silu_mul_quantise_masked(hidden, counts)
    return grouped_gemm_fp8_masked(*quantised, weights.down, down_scales, counts, expected=expected)


def tiled(rows: Tensor | Quantised, tile_experts: Tensor, weights: "ExpertWeights") -> Tensor:
    """Run the experts over aligned rows, of which each tile names its expert: `[n, hidden]`.

    rows  [n, hidden]; quantised where the weights are
    """
    if isinstance(rows, Tensor):
        hidden = grouped_gemm(rows, weights.gate_up, tile_experts)
        return grouped_gemm(silu_mul(hidden), weights.down, tile_experts)
    gate_up_scales, down_scales = _scales(weights)
    hidden = grouped_gemm_fp8(*rows, weights.gate_up, gate_up_scales, tile_experts)
    return grouped_gemm_fp8(*silu_mul_quantise(hidden), weights.down, down_scales, tile_experts)


def batched_frame(routed: BatchedRows, weights: "ExpertWeights") -> Tensor:
    """Run every expert over its frame, as `experts.experts_batched` does."""
    rows = routed.rows
    if weights.scales is None:
        return masked(plain(rows, weights.gate_up.dtype).contiguous(), routed.counts, weights)
    if not isinstance(rows, Tensor):
        return masked(rows, routed.counts, weights)
    values, scales = quantise_groups(rows.flatten(0, 1))
    frame = (*rows.shape[:2], -1)
    return masked((values.view(frame), scales.view(frame)), routed.counts, weights).to(rows.dtype)


def contiguous_tiles(routed: ContiguousRows, weights: "ExpertWeights") -> Tensor:
    """Run each present expert over its rows, as `experts.experts_contiguous` does, in aligned tiles."""
    rows = routed.rows if weights.scales is not None else plain(routed.rows, weights.gate_up.dtype)
    dtype = rows.dtype if isinstance(rows, Tensor) else torch.bfloat16
    if not routed.counts:
        return torch.empty(0, weights.down.shape[1], dtype=dtype, device=weights.down.device)
    places, tiles = _aligned(routed, weights.down.device)
    frame: Tensor | Quantised
    if weights.scales is None:
        assert isinstance(rows, Tensor)
        frame = _spread(rows, places, tiles)
    else:
        values, scales = quantise_groups(rows) if isinstance(rows, Tensor) else rows
        as_bytes = _spread(values.view(torch.uint8), places, tiles)  # not every operation knows FP8
        frame = as_bytes.view(values.dtype), _spread(scales, places, tiles)
    return tiled(frame, tiles, weights)[places].to(dtype)


def _spread(rows: Tensor, places: Tensor, tiles: Tensor) -> Tensor:
    frame = rows.new_zeros(len(tiles) * ALIGNMENT, rows.shape[1])
    return frame.index_copy_(0, places, rows)


def _aligned(routed: ContiguousRows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each row goes in a frame of aligned tiles, and the expert of each tile."""
    experts, counts = torch.tensor([routed.experts, routed.counts])
    used = (counts + ALIGNMENT - 1) // ALIGNMENT
    rows, tiles = int(counts.sum()), int(used.sum())
    shifts = (used.cumsum(0) - used) * ALIGNMENT - (counts.cumsum(0) - counts)
    experts, counts, used, shifts = torch.stack([experts, counts, used, shifts]).to(device)  # one copy
    places = torch.arange(rows, device=device) + shifts.repeat_interleave(counts, output_size=rows)
    return places, experts.int().repeat_interleave(used, output_size=tiles)


def _scales(weights: "ExpertWeights") -> tuple[Tensor, Tensor]:
    assert weights.scales is not None, "quantised rows for weights that are not"
    return weights.scales

"""One matrix product an expert, over rows grouped by expert (DeepGEMM's contiguous and masked layouts).

Weights lie as published, `[experts, out, in]`; a product is `rows @ weight.T`. In FP8 both sides carry
factors, rows one for each 128 columns, weights one for each block of 128 x 128 (`kernels/fp8.py`), and the
result is bfloat16.
"""

import torch
from torch import Tensor

from ..by_device import by_device, reference
from ..fp8 import dequantise_blocks, dequantise_groups


@by_device
def grouped_gemm(rows: Tensor, weights: Tensor, tile_experts: Tensor) -> Tensor:
    """Multiply contiguous rows; tiles without an expert give rows that hold anything.

    rows          [n, in]              bfloat16, float16 or float32
    weights       [experts, out, in]   rows.dtype
    tile_experts  [n / alignment]      int32, the expert of each `alignment` rows, -1 for none
    returns       [n, out]             rows.dtype
    """
    out = rows.new_zeros(rows.shape[0], weights.shape[1])
    alignment = rows.shape[0] // tile_experts.shape[0]
    of_row = tile_experts.repeat_interleave(alignment)
    for expert in range(weights.shape[0]):
        own = of_row == expert
        out[own] = rows[own] @ weights[expert].t()
    return out


@by_device
def grouped_gemm_masked(
    rows: Tensor, weights: Tensor, counts: Tensor, *, expected: int | None = None
) -> Tensor:
    """Multiply each expert's first rows; the others are not read, and what they give is not written.

    `expected` rows an expert, where the caller knows better than `capacity`, choose the tiles on a GPU.

    rows     [experts, capacity, in]    bfloat16, float16 or float32
    weights  [experts, out, in]         rows.dtype
    counts   [experts]                  int32, at most `capacity`
    returns  [experts, capacity, out]   rows.dtype
    """
    live = torch.arange(rows.shape[1], device=rows.device) < counts.unsqueeze(1)
    return torch.bmm(rows.masked_fill(~live.unsqueeze(-1), 0.0), weights.transpose(1, 2))


@by_device
def grouped_gemm_fp8(
    rows: Tensor, row_scales: Tensor, weights: Tensor, weight_scales: Tensor, tile_experts: Tensor
) -> Tensor:
    """Multiply contiguous rows in FP8; tiles without an expert give rows that hold anything.

    rows           [n, in]                                      float8_e4m3fn
    row_scales     [n, ceil(in / 128)]                          float32
    weights        [experts, out, in]                           float8_e4m3fn
    weight_scales  [experts, ceil(out / 128), ceil(in / 128)]   float32
    tile_experts   [n / alignment]                              int32
    returns        [n, out]                                     bfloat16
    """
    wide = dequantise_groups(rows, row_scales)
    multiply = reference(grouped_gemm)
    return multiply(wide, dequantise_blocks(weights, weight_scales), tile_experts).bfloat16()


@by_device
def grouped_gemm_fp8_masked(
    rows: Tensor,
    row_scales: Tensor,
    weights: Tensor,
    weight_scales: Tensor,
    counts: Tensor,
    *,
    expected: int | None = None,
) -> Tensor:
    """Multiply each expert's first rows in FP8; the others are not read, and what they give is not written.

    `expected` is as in `grouped_gemm_masked`.

    rows           [experts, capacity, in]                      float8_e4m3fn
    row_scales     [experts, capacity, ceil(in / 128)]          float32
    weights        [experts, out, in]                           float8_e4m3fn
    weight_scales  [experts, ceil(out / 128), ceil(in / 128)]   float32
    counts         [experts]                                    int32, at most `capacity`
    returns        [experts, capacity, out]                     bfloat16
    """
    wide = dequantise_groups(rows, row_scales)
    multiply = reference(grouped_gemm_masked)
    return multiply(wide, dequantise_blocks(weights, weight_scales), counts).bfloat16()

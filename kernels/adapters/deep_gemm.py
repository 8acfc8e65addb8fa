"""DeepGEMM: block-FP8 products, dense and grouped (github.com/deepseek-ai/DeepGEMM, README, Interfaces).

Names end in `nt`: both sides lie with the depth innermost, as here. Factors are float32 on Hopper; those of
the rows must be transposed in memory, as the tensor memory accelerator takes them, which the package does.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .hopper import is_hopper

GROUP = 128


def linear_fp8(package: Any, otherwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the dense product by DeepGEMM; what it does not take goes `otherwise`."""

    def product(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
        if not _takes(x, weight):
            return otherwise(x, x_scales, weight, weight_scales)
        out = torch.empty(x.shape[0], weight.shape[0], dtype=torch.bfloat16, device=x.device)
        package.fp8_gemm_nt((x, _aligned(package, x_scales)), (weight, weight_scales), out)
        return out

    return product


def grouped_gemm_fp8(package: Any, otherwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the product of contiguous rows by DeepGEMM; what it does not take goes `otherwise`."""

    def product(
        rows: Tensor, row_scales: Tensor, weights: Tensor, weight_scales: Tensor, tile_experts: Tensor
    ) -> Tensor:
        alignment = rows.shape[0] // tile_experts.shape[0]
        if not _takes(rows, weights) or alignment % package.get_mk_alignment_for_contiguous_layout():
            return otherwise(rows, row_scales, weights, weight_scales, tile_experts)
        out = torch.empty(rows.shape[0], weights.shape[1], dtype=torch.bfloat16, device=rows.device)
        of_rows = tile_experts.unsqueeze(1).expand(-1, alignment).flatten()
        left = (rows, _aligned(package, row_scales))
        package.m_grouped_fp8_gemm_nt_contiguous(left, (weights, weight_scales), out, of_rows)
        return out

    return product


def grouped_gemm_fp8_masked(package: Any, otherwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the product of each expert's first rows by DeepGEMM; what it does not take goes `otherwise`."""

    def product(
        rows: Tensor,
        row_scales: Tensor,
        weights: Tensor,
        weight_scales: Tensor,
        counts: Tensor,
        *,
        expected: int | None = None,
    ) -> Tensor:
        if not _takes(rows, weights):
            return otherwise(rows, row_scales, weights, weight_scales, counts, expected=expected)
        experts, capacity, _ = rows.shape
        out = torch.empty(experts, capacity, weights.shape[1], dtype=torch.bfloat16, device=rows.device)
        left = (rows, _aligned(package, row_scales))
        package.m_grouped_fp8_gemm_nt_masked(
            left, (weights, weight_scales), out, counts, min(expected or capacity, capacity)
        )
        return out

    return product


def _takes(rows: Tensor, weights: Tensor) -> bool:
    """Whole blocks of 128 x 128, and something to compute."""
    whole = rows.shape[-1] % GROUP == weights.shape[-2] % GROUP == 0
    return whole and rows.numel() > 0 and is_hopper(rows.device)


def _aligned(package: Any, scales: Tensor) -> Tensor:
    aligned: Tensor = package.get_mn_major_tma_aligned_tensor(scales)
    return aligned

"""Stand-ins for FlashMLA, DeepGEMM and FlashInfer: documented shapes and types enforced, computed in torch.

What the real package leaves undefined is NaN here. Sources: the packages' READMEs and interface files.
"""

import math
from typing import Any

import torch
from torch import Tensor

from baton.kernels.fp8 import dequantise_blocks, dequantise_groups

FP8 = torch.float8_e4m3fn


class MisuseError(Exception):
    """A call that the real package would refuse, or answer wrongly."""


def require(holds: bool, message: str) -> None:
    if not holds:
        raise MisuseError(message)


class FlashMla:
    """`flash_mla`: dense decode."""

    def __init__(self) -> None:
        self.calls = 0

    def get_mla_metadata(
        self, cache_seqlens: Tensor, queries_a_kv_head: int, kv_heads: int
    ) -> tuple[Any, Any]:
        require(cache_seqlens.dtype is torch.int32, "cache_seqlens are int32")
        require(kv_heads == 1, "MLA has one key head")
        return ("schedule", tuple(cache_seqlens.tolist()), queries_a_kv_head), None

    def flash_mla_with_kvcache(  # noqa: PLR0917
        self,
        q: Tensor,
        k_cache: Tensor,
        block_table: Tensor,
        cache_seqlens: Tensor,
        head_dim_v: int,
        tile_scheduler_metadata: Any,
        num_splits: Any = None,
        softmax_scale: float | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        self.calls += 1
        batch, queries, heads, width = q.shape
        require(queries == 1 and width == 576 and head_dim_v == 512, f"q {list(q.shape)}")
        require(k_cache.shape[1:] == (64, 1, 576), f"k_cache {list(k_cache.shape)}")
        require(k_cache.stride()[1:] == (576, 576, 1) or k_cache.stride()[1] == 576, "entries are dense")
        require({q.dtype, k_cache.dtype} == {torch.bfloat16}, "bfloat16 on both sides")
        require(block_table.dtype is torch.int32 and cache_seqlens.dtype is torch.int32, "int32 tables")
        require(min(cache_seqlens.tolist()) > 0, "a length of 0 is not documented")
        require(
            tile_scheduler_metadata == ("schedule", tuple(cache_seqlens.tolist()), heads),
            "the schedule is of other lengths",
        )
        out = torch.full((batch, 1, heads, 512), float("nan"), dtype=torch.bfloat16)
        logs = torch.full((batch, heads, 1), float("nan"))
        for row, length in enumerate(cache_seqlens.tolist()):
            entries = k_cache[block_table[row].long()].reshape(-1, 576)[:length].float()
            scores = q[row, 0].float() @ entries.t() * (softmax_scale or 576**-0.5)
            out[row, 0] = (scores.softmax(-1) @ entries[:, :512]).bfloat16()
            logs[row, :, 0] = scores.logsumexp(-1)
        return out, logs


class DeepGemm:
    """`deep_gemm` on Hopper."""

    alignment = 128

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._aligned: set[int] = set()

    def get_mk_alignment_for_contiguous_layout(self) -> int:
        return self.alignment

    def get_mn_major_tma_aligned_tensor(self, scales: Tensor) -> Tensor:
        """The same values, transposed in memory, columns 16 bytes apart."""
        require(scales.dtype is torch.float32, "factors are float32")
        rows = -(-scales.shape[-2] // 4) * 4
        padded = torch.full((*scales.shape[:-2], scales.shape[-1], rows), float("nan"))
        aligned = padded.transpose(-1, -2)[..., : scales.shape[-2], :]
        aligned.copy_(scales)
        return aligned

    def fp8_gemm_nt(self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], out: Tensor) -> None:
        self.calls.append("dense")
        self._check(left, right, out)
        out.copy_(dequantise_groups(*left) @ dequantise_blocks(*right).t())

    def m_grouped_fp8_gemm_nt_contiguous(
        self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], out: Tensor, layout: Tensor
    ) -> None:
        self.calls.append("contiguous")
        self._check(left, right, out)
        require(layout.dtype is torch.int32 and layout.shape == left[0].shape[:1], "an int32 a row")
        require(layout.is_contiguous(), "a dense layout")
        blocks = layout.view(-1, self.alignment)
        require(bool((blocks == blocks[:, :1]).all()), "an expert begins at a multiple of the alignment")
        rows, weights = dequantise_groups(*left), dequantise_blocks(*right)
        out.fill_(float("nan"))
        for expert in range(len(weights)):
            out[layout == expert] = (rows[layout == expert] @ weights[expert].t()).bfloat16()

    def m_grouped_fp8_gemm_nt_masked(
        self,
        left: tuple[Tensor, Tensor],
        right: tuple[Tensor, Tensor],
        out: Tensor,
        masked_m: Tensor,
        expected_m: int,
    ) -> None:
        self.calls.append("masked")
        self._check(left, right, out)
        require(masked_m.dtype is torch.int32 and masked_m.shape == left[0].shape[:1], "an int32 an expert")
        require(0 < expected_m <= left[0].shape[1], f"expected_m {expected_m}")
        rows, weights = dequantise_groups(*left), dequantise_blocks(*right)
        out.fill_(float("nan"))
        for expert, count in enumerate(masked_m.tolist()):
            out[expert, :count] = (rows[expert, :count] @ weights[expert].t()).bfloat16()

    def _check(self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], out: Tensor) -> None:
        (rows, row_scales), (weights, weight_scales) = left, right
        require({rows.dtype, weights.dtype} == {FP8}, "both sides are FP8")
        require({row_scales.dtype, weight_scales.dtype} == {torch.float32}, "factors are float32")
        require(out.dtype is torch.bfloat16, "the result is bfloat16")
        require(all(each.is_contiguous() for each in (rows, weights, weight_scales, out)), "dense matrices")
        require(rows.shape[-1] % 128 == 0 and weights.shape[-2] % 128 == 0, "whole blocks")
        require(
            row_scales.shape == (*rows.shape[:-1], rows.shape[-1] // 128), "a factor a row and 128 columns"
        )
        require(row_scales.stride(-2) == 1 and row_scales.stride(-1) % 4 == 0, "row factors are TMA-aligned")


class FlashInfer:
    """`flashinfer`: attention of one prompt."""

    def __init__(self) -> None:
        self.calls = 0

    def single_prefill_with_kv_cache_return_lse(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, kv_layout: str, sm_scale: float
    ) -> tuple[Tensor, Tensor]:
        self.calls += 1
        queries, heads, dim = q.shape
        keys, kv_heads, _ = k.shape
        require(kv_layout == "NHD" and k.shape == v.shape == (keys, kv_heads, dim), "keys and values alike")
        require(dim in {64, 128, 256} and heads % kv_heads == 0, f"{heads} heads of {dim}")
        require(
            q.dtype in {torch.bfloat16, torch.float16} and q.dtype is k.dtype is v.dtype, "one half format"
        )
        require(all(each.is_contiguous() for each in (q, k, v)), "dense tensors")
        of_head = torch.arange(heads) // (heads // kv_heads)
        scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()[:, of_head]) * sm_scale
        if causal:  # the last query sees all keys
            later = torch.arange(keys) > torch.arange(queries).unsqueeze(1) + keys - queries
            scores = scores.masked_fill(later, float("-inf"))
        out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v.float()[:, of_head]).to(q.dtype)
        return out, scores.logsumexp(-1).t() / math.log(2.0)

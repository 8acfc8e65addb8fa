"""Second stage: the experts' gated MLPs over rows grouped by expert."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..silu_mul import silu_mul
from .experts_grouped import batched_frame, contiguous_tiles
from .rows import BatchedRows, ContiguousRows, plain


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """The weights of the experts of one layer that this rank owns."""

    owned: range
    gate_up: Tensor
    """[owned, 2 * width, hidden], gate first"""
    down: Tensor
    """[owned, hidden, width]"""
    gate_up_of: list[Tensor]
    """[hidden, 2 * width] of each owned expert, a view"""
    down_of: list[Tensor]
    """[width, hidden] of each owned expert, a view"""

    grouped: bool = False
    """Products go in a GPU's frames of fixed shapes; the weights lie as published"""
    scales: tuple[Tensor, Tensor] | None = None
    """Of block-FP8 weights: the float32 factors of 128 x 128 values of `gate_up` and of `down`"""

    @classmethod
    def of_fp8(
        cls, owned: range, gate_up: tuple[Tensor, Tensor], down: tuple[Tensor, Tensor]
    ) -> "ExpertWeights":
        """Take block-FP8 weights as published, each with its factors."""
        return cls(owned, gate_up[0], down[0], [], [], grouped=True, scales=(gate_up[1], down[1]))

    @classmethod
    def of(cls, owned: range, gate_up: Tensor, down: Tensor, *, grouped: bool = False) -> "ExpertWeights":
        """Take stacked weights and cut the views once."""
        gate_up_of, down_of = (list(stacked.transpose(1, 2).unbind(0)) for stacked in (gate_up, down))
        return cls(owned, gate_up, down, gate_up_of, down_of, grouped=grouped)


def experts_contiguous(routed: ContiguousRows, weights: ExpertWeights) -> Tensor:
    """Run each present expert over its rows.

    returns  [n, hidden], row for row of `routed.rows`
    """
    if weights.grouped:
        return contiguous_tiles(routed, weights)
    rows = plain(routed.rows, weights.gate_up.dtype)
    hidden = rows.new_empty(rows.shape[0], weights.gate_up.shape[1])
    _grouped_mm(rows, weights.gate_up_of, routed, hidden)
    out = torch.empty_like(rows, memory_format=torch.contiguous_format)
    _grouped_mm(silu_mul(hidden), weights.down_of, routed, out)
    return out


def experts_batched(routed: BatchedRows, weights: ExpertWeights) -> Tensor:
    """Run every expert over its frame.

    On a CPU only the rows that count are computed, expert by expert. On a GPU no shape depends on them.

    returns  [owned experts, max rows, hidden], on a CPU in the memory of plain `routed.rows`, which are used
             up; rows beyond the counts are garbage
    """
    if weights.grouped:
        return batched_frame(routed, weights)
    frame = plain(routed.rows, weights.gate_up.dtype)
    for expert, count in enumerate(routed.counts.tolist()):
        if count:
            rows = frame[expert, :count]
            hidden = torch.mm(rows, weights.gate_up_of[expert])
            torch.mm(silu_mul(hidden), weights.down_of[expert], out=rows)
    return frame


def _grouped_mm(rows: Tensor, matrices: list[Tensor], routed: ContiguousRows, out: Tensor) -> None:
    """Multiply each expert's rows by its matrix into the same rows of `out`."""
    sources, targets = rows.split_with_sizes(routed.counts), out.split_with_sizes(routed.counts)
    for expert, source, target in zip(routed.experts, sources, targets, strict=True):
        torch.mm(source, matrices[expert], out=target)

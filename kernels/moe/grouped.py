"""All experts on one rank, on a GPU: routed, multiplied, summed in frames whose shapes no data decides.

    route, permute    tokens to rows grouped by expert
    grouped products  the experts, and the activation between
    unpermute         weighted sums, one a token

Nothing is read back to the host, so that a CUDA graph can hold the layer. `MoeMlp` calls it where
`by_device.serves` says so; a CPU computes exactly the rows there are instead (`backend.LocalMoe`).
"""

from dataclasses import dataclass

from torch import Tensor

from ..silu_mul import silu_mul, silu_mul_masked
from .experts import ExpertWeights
from .grouped_gemm import grouped_gemm, grouped_gemm_masked
from .pair import Pending
from .routes import contiguous_capacity, permute, route_contiguous, route_masked, unpermute

ALIGNMENT = 64
"""Rows of the smallest tile: Hopper's matrix instructions take no fewer."""


class GroupedMoe:
    """All experts on this rank, nothing sent, no shape that data decides."""

    def begin(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> "GroupedBegun":
        """Note what to compute."""
        return GroupedBegun(x, ids, weights, experts)

    def run(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
        """Route, run the experts, sum: `[tokens, hidden]`; ids outside `experts.owned`, such as -1, add 0.

        A few tokens go in the masked layout, whose tiles are found on the device, many in the contiguous one:
        whichever has the smaller frame.
        """
        tokens, owned = x.shape[0], len(experts.owned)
        if tokens == 0:
            return x.new_empty(x.shape)
        if owned * tokens <= contiguous_capacity(ids.numel(), owned, ALIGNMENT):
            return _masked(x, ids, weights, experts)
        return _contiguous(x, ids, weights, experts)


@dataclass(frozen=True, slots=True)
class GroupedBegun:
    """Tokens that need not travel."""

    x: Tensor
    ids: Tensor
    weights: Tensor
    experts: ExpertWeights

    def compute(self) -> Pending[Tensor]:
        """Run all stages."""
        out = GroupedMoe().run(self.x, self.ids, self.weights, self.experts)
        return lambda: out


def _masked(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
    tokens, owned = x.shape[0], len(experts.owned)
    routes = route_masked(ids, experts.owned, tokens)
    expected = -(-ids.numel() // owned)
    rows = permute(x, routes).view(owned, tokens, -1)
    hidden = grouped_gemm_masked(rows, experts.gate_up, routes.counts, expected=expected)
    activated = silu_mul_masked(hidden, routes.counts)
    out = grouped_gemm_masked(activated, experts.down, routes.counts, expected=expected)
    return unpermute(out.flatten(0, 1), routes, weights)


def _contiguous(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
    routes = route_contiguous(ids, experts.owned, ALIGNMENT)
    assert routes.tile_experts is not None
    hidden = grouped_gemm(permute(x, routes), experts.gate_up, routes.tile_experts)
    out = grouped_gemm(silu_mul(hidden), experts.down, routes.tile_experts)
    return unpermute(out, routes, weights)

"""All experts on one rank, on a GPU: routed, multiplied, summed in frames whose shapes no data decides.

    route, permute    tokens to rows grouped by expert
    grouped products  the experts, and the activation between
    unpermute         weighted sums, one a token

Nothing is read back to the host, so that a CUDA graph can hold the layer. `MoeMlp` calls it where
`by_device.serves` says so; a CPU computes exactly the rows there are instead (`backend.LocalMoe`).
"""

from torch import Tensor

from ..fp8 import Quantised, quantise_groups
from .backend import LocalBegun
from .experts import ExpertWeights
from .experts_grouped import ALIGNMENT, masked, tiled
from .routes import contiguous_capacity, permute, route_contiguous, route_masked, unpermute


class GroupedMoe:
    """All experts on this rank, nothing sent, no shape that data decides."""

    def begin(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> LocalBegun:
        """Note what to compute."""
        return LocalBegun(lambda: self.run(x, ids, weights, experts))

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


def _masked(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
    tokens, owned = x.shape[0], len(experts.owned)
    routes = route_masked(ids, experts.owned, tokens)
    frame, expected = (owned, tokens, -1), -(-ids.numel() // owned)
    rows: Tensor | Quantised
    if experts.scales is None:
        rows = permute(x, routes).view(frame)
    else:  # before they are copied to several experts
        values, scales = quantise_groups(x)
        rows = permute(values, routes).view(frame), permute(scales, routes).view(frame)
    out = masked(rows, routes.counts, experts, expected)
    return unpermute(out.flatten(0, 1), routes, weights).to(x.dtype)


def _contiguous(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
    routes = route_contiguous(ids, experts.owned, ALIGNMENT)
    assert routes.tile_experts is not None
    rows: Tensor | Quantised
    if experts.scales is None:
        rows = permute(x, routes)
    else:
        values, scales = quantise_groups(x)
        rows = permute(values, routes), permute(scales, routes)
    out = tiled(rows, routes.tile_experts, experts)
    return unpermute(out, routes, weights).to(x.dtype)

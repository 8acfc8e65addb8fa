"""The routed experts of some tokens, all on this rank: grouped by expert, run, weighted and summed."""

from torch import Tensor

from ..by_device import on_cpu
from .experts import ExpertWeights, experts_contiguous
from .finalize import finalize_contiguous
from .prepare import prepare_contiguous


@on_cpu
def routed_experts(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
    """Return each token's weighted sum over its experts; ids outside `experts.owned`, such as -1, add 0.

    x        [tokens, hidden]
    ids      [tokens, top_k]    int64
    weights  [tokens, top_k]    float32
    returns  [tokens, hidden]   x.dtype
    """
    routed = prepare_contiguous(x, ids, experts.owned)
    return finalize_contiguous(experts_contiguous(routed, experts), routed, weights)

"""How rows reach the experts and come back: what all backends share, and the one for a single rank."""

from typing import Protocol

from torch import Tensor

from .experts import ExpertWeights, experts_contiguous
from .finalize import finalize_contiguous
from .prepare import prepare_contiguous


class MoeBackend(Protocol):
    """Composes the three stages. Implementations differ in where rows travel between them."""

    def run(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
        """Return the routed experts' weighted sum for each token.

        x        [tokens, hidden]
        ids      [tokens, top_k]    int64; -1 routes nowhere
        weights  [tokens, top_k]    float32
        returns  [tokens, hidden]   x.dtype
        """
        ...


class LocalMoe:
    """All experts on this rank, contiguous rows, nothing sent."""

    def run(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
        """Prepare, run the experts, finalize. Shapes as in `MoeBackend`."""
        routed = prepare_contiguous(x, ids, experts.owned)
        return finalize_contiguous(experts_contiguous(routed, experts), routed, weights)

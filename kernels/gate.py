"""Which experts each token goes to, and with which weights.

Sources: DeepSeek-V3 report (arXiv 2412.19437) section 2.1.2 for `noaux_tc`; DeepSeek-V2 report (arXiv
2405.04434) section 2.1.2 for group-limited softmax routing. Weights are float32, ids int64; the ids of a
token are distinct and in no order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .by_device import by_device

Routing = tuple[Tensor, Tensor]
"""Weights and ids, both [tokens, top_k]."""


@by_device
def gate_sigmoid_grouped(
    logits: Tensor,
    bias: Tensor,
    *,
    top_k: int,
    num_groups: int,
    top_groups: int,
    normalise: bool,
    scale: float,
) -> Routing:
    """Route by sigmoid scores; `bias` steers the choice and stays out of the weights.

    A group's score is the sum of its two best biased scores; only the best `top_groups` groups are eligible.

    logits   [tokens, experts]   float32
    bias     [experts]           float32
    returns  [tokens, top_k] float32, [tokens, top_k] int64
    """
    scores = logits.sigmoid_()
    choice = scores + bias
    if top_groups < num_groups:
        grouped = choice.view(choice.shape[0], num_groups, choice.shape[1] // num_groups)
        choice = _best_groups(grouped, grouped.topk(2, -1)[0].sum(-1), top_groups)
    ids = choice.topk(top_k, -1, sorted=False)[1]
    weights = scores.gather(-1, ids)
    if normalise:
        weights.div_(weights.sum(-1, keepdim=True).add_(1e-20))
    return weights.mul_(scale), ids


@by_device
def gate_softmax_grouped(
    logits: Tensor, *, top_k: int, num_groups: int, top_groups: int, normalise: bool, scale: float
) -> Routing:
    """Route by softmax scores within the `top_groups` groups with the best single expert.

    The weights are multiplied by `scale` only where they are not normalised.

    logits   [tokens, experts]   float32
    returns  [tokens, top_k] float32, [tokens, top_k] int64
    """
    if normalise and top_groups == num_groups:  # what normalising would undo need not be computed
        best, ids = logits.topk(top_k, -1, sorted=False)
        return best.softmax(-1), ids
    scores = logits.softmax(-1)
    if top_groups < num_groups:
        grouped = scores.view(scores.shape[0], num_groups, scores.shape[1] // num_groups)
        scores = _best_groups(grouped, grouped.amax(-1), top_groups)
    weights, ids = scores.topk(top_k, -1, sorted=False)
    if normalise:
        return weights.div_(weights.sum(-1, keepdim=True).add_(1e-20)), ids
    return weights.mul_(scale), ids


@dataclass(frozen=True, slots=True)
class Gate:
    """How a layer's tokens are routed."""

    bias: Tensor | None
    """[experts] float32, of sigmoid scores; absent: softmax"""
    top_k: int
    num_groups: int
    top_groups: int
    normalise: bool
    scale: float

    def __call__(self, logits: Tensor) -> Routing:
        """Route by [tokens, experts] float32, which may be overwritten."""
        top_k, groups, top_groups = self.top_k, self.num_groups, self.top_groups
        if self.bias is None:
            return gate_softmax_grouped(
                logits, top_k=top_k, num_groups=groups, top_groups=top_groups, normalise=self.normalise,
                scale=self.scale,
            )  # fmt: skip
        return gate_sigmoid_grouped(
            logits, self.bias, top_k=top_k, num_groups=groups, top_groups=top_groups,
            normalise=self.normalise, scale=self.scale,
        )  # fmt: skip


def _best_groups(grouped: Tensor, group_scores: Tensor, top_groups: int) -> Tensor:
    """Scores, minus infinity outside the best groups: [tokens, groups, size] to [tokens, experts]."""
    best = group_scores.topk(top_groups, -1, sorted=False)[1]
    dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(-1, best, False)
    return grouped.masked_fill(dropped.unsqueeze(-1), float("-inf")).flatten(-2)

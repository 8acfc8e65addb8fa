"""`gate.py` in C++."""

import torch
from torch import Tensor

from . import gate as in_torch
from .by_device import reference
from .gate import Routing
from .native.library import are_plain, function

_ROUTE = function("route", "ppppiiiiiif")
_MOST_EXPERTS = function("route_most_experts", "")


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
    """Route by sigmoid scores and a bias; the logits stay."""
    if not (_takes(logits) and are_plain(bias) and _can_choose(logits, 2, top_k, num_groups, top_groups)):
        return reference(in_torch.gate_sigmoid_grouped)(
            logits, bias, top_k=top_k, num_groups=num_groups, top_groups=top_groups, normalise=normalise,
            scale=scale,
        )  # fmt: skip
    return _route(logits, bias.data_ptr(), top_k, (num_groups, top_groups), normalise=normalise, scale=scale)


def gate_softmax_grouped(
    logits: Tensor, *, top_k: int, num_groups: int, top_groups: int, normalise: bool, scale: float
) -> Routing:
    """Route by softmax scores."""
    if not (_takes(logits) and _can_choose(logits, 1, top_k, num_groups, top_groups)):
        return reference(in_torch.gate_softmax_grouped)(
            logits, top_k=top_k, num_groups=num_groups, top_groups=top_groups, normalise=normalise,
            scale=scale,
        )  # fmt: skip
    return _route(logits, None, top_k, (num_groups, top_groups), normalise=normalise, scale=scale)


def _takes(logits: Tensor) -> bool:
    return logits.is_contiguous() and logits.shape[1] <= _MOST_EXPERTS() and are_plain(logits)


def _can_choose(logits: Tensor, counted: int, top_k: int, num_groups: int, top_groups: int) -> bool:
    """Whether there are always as many experts to choose from as are chosen; C++ does not look.

    `counted`: the experts of a group that it is judged by.
    """
    experts = logits.shape[1]
    if top_groups == num_groups:
        return top_k <= experts
    if not 0 < top_groups < num_groups or experts % num_groups:
        return False
    size = experts // num_groups
    return counted <= size and top_k <= size * top_groups


def _route(
    logits: Tensor, bias: int | None, top_k: int, groups: tuple[int, int], *, normalise: bool, scale: float
) -> Routing:
    tokens, experts = logits.shape
    weights, ids = torch.empty(tokens, top_k), torch.empty(tokens, top_k, dtype=torch.int64)
    _ROUTE(
        logits.data_ptr(), bias, weights.data_ptr(), ids.data_ptr(), tokens, experts, top_k, *groups,
        int(normalise), scale,
    )  # fmt: skip
    return weights, ids

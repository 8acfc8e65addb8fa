"""`gate.py` in C++."""

import torch
from torch import Tensor

from . import gate as in_torch
from .by_device import reference
from .gate import Gate, Routing
from .native.library import are_plain, function

_ROUTE = function("route", "ppppiiiiiifi")
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
    gate = Gate(bias, top_k, num_groups, top_groups, normalise, scale)
    if not (logits.is_contiguous() and are_plain(logits, bias) and can_choose(gate, logits.shape[1])):
        return reference(in_torch.gate_sigmoid_grouped)(
            logits, bias, top_k=top_k, num_groups=num_groups, top_groups=top_groups, normalise=normalise,
            scale=scale,
        )  # fmt: skip
    return _route(logits, gate)


def gate_softmax_grouped(
    logits: Tensor, *, top_k: int, num_groups: int, top_groups: int, normalise: bool, scale: float
) -> Routing:
    """Route by softmax scores."""
    gate = Gate(None, top_k, num_groups, top_groups, normalise, scale)
    if not (logits.is_contiguous() and are_plain(logits) and can_choose(gate, logits.shape[1])):
        return reference(in_torch.gate_softmax_grouped)(
            logits, top_k=top_k, num_groups=num_groups, top_groups=top_groups, normalise=normalise,
            scale=scale,
        )  # fmt: skip
    return _route(logits, gate)


def can_choose(gate: Gate, experts: int) -> bool:
    """Whether there are always as many experts to choose from as are chosen; C++ does not look."""
    if experts > _MOST_EXPERTS():
        return False
    if gate.top_groups == gate.num_groups:
        return gate.top_k <= experts
    if not 0 < gate.top_groups < gate.num_groups or experts % gate.num_groups:
        return False
    size = experts // gate.num_groups
    judged_by = 1 if gate.bias is None else 2
    return judged_by <= size and gate.top_k <= size * gate.top_groups


def _route(logits: Tensor, gate: Gate) -> Routing:
    tokens, experts = logits.shape
    weights, ids = torch.empty(tokens, gate.top_k), torch.empty(tokens, gate.top_k, dtype=torch.int64)
    _ROUTE(
        logits.data_ptr(), None if gate.bias is None else gate.bias.data_ptr(), weights.data_ptr(),
        ids.data_ptr(), tokens, experts, gate.top_k, gate.num_groups, gate.top_groups, int(gate.normalise),
        gate.scale, torch.get_num_threads(),
    )  # fmt: skip
    return weights, ids

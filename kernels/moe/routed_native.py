"""`routed_experts` of `routed.py` in C++."""

import torch
from torch import Tensor

from ..by_device import reference
from ..native.library import are_plain, function
from . import routed as in_torch
from .experts import ExpertWeights

_EXPERTS = function("routed_experts", "pipipiiippiipi")


def routed_experts(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Tensor:
    """Return each token's weighted sum over its experts."""
    if not _takes(x, ids, weights, experts):
        return reference(in_torch.routed_experts)(x, ids, weights, experts)
    tokens, hidden = x.shape
    out = torch.empty(tokens, hidden)
    _EXPERTS(
        x.data_ptr(),
        x.stride(0),
        ids.data_ptr(),
        experts.owned.start,
        weights.data_ptr(),
        tokens,
        ids.shape[1],
        len(experts.owned),
        experts.gate_up.data_ptr(),
        experts.down.data_ptr(),
        hidden,
        experts.down.shape[2],
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def _takes(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> bool:
    """Weights in memory as [experts, in, out], so that a product reads a row of outputs at once."""
    if experts.grouped or not (ids.is_contiguous() and weights.is_contiguous()):
        return False
    gate_up, down = experts.gate_up.transpose(1, 2), experts.down.transpose(1, 2)
    return are_plain(x, weights, gate_up, down) and gate_up.is_contiguous() and down.is_contiguous()

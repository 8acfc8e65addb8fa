"""`routed_experts` of `routed.py` in C++."""

import torch
from torch import Tensor

from ..by_device import reference
from ..native.library import are_plain, function
from ..native.panels import can_pack, panels_of
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
        panels_of(experts.gate_up, outputs_first=True).data_ptr(),
        panels_of(experts.down, outputs_first=True).data_ptr(),
        hidden,
        experts.down.shape[2],
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def _takes(x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> bool:
    if experts.grouped or not (ids.is_contiguous() and weights.is_contiguous()):
        return False
    return are_plain(x, weights) and can_pack(experts.gate_up, experts.down)

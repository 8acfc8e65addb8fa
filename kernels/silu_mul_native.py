"""`silu_mul` of `silu_mul.py` in C++."""

import torch
from torch import Tensor

from . import silu_mul as in_torch
from .by_device import reference
from .native.library import are_plain, function

_SILU_MUL = function("silu_mul", "ppiii")


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return `silu(gate) * up`."""
    if gate_up.dim() != 2 or not gate_up.is_contiguous() or not are_plain(gate_up):
        return reference(in_torch.silu_mul)(gate_up)
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    _SILU_MUL(gate_up.data_ptr(), out.data_ptr(), rows, width, torch.get_num_threads())
    return out

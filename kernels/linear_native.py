"""`gated_mlp` of `linear.py` in C++, for as few rows as decode steps have."""

import torch
from torch import Tensor

from . import linear as in_torch
from .by_device import reference
from .linear import Weight
from .native.library import are_plain, function

_GATED_MLP = function("gated_mlp", "pippiipi")
MOST_ROWS = 64
"""From there on torch's products are faster by more than the calls between them cost."""


def gated_mlp(x: Tensor, gate_up: Weight, down: Weight) -> Tensor:
    """Return `down(silu(gate(x)) * up(x))`."""
    if not (isinstance(gate_up, Tensor) and isinstance(down, Tensor) and _takes(x, gate_up, down)):
        return reference(in_torch.gated_mlp)(x, gate_up, down)
    rows, hidden = x.shape
    out = torch.empty(rows, hidden)
    _GATED_MLP(
        x.data_ptr(), rows, gate_up.data_ptr(), down.data_ptr(), hidden, down.shape[0], out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def _takes(*tensors: Tensor) -> bool:
    dense = all(tensor.is_contiguous() for tensor in tensors)
    return dense and tensors[0].shape[0] <= MOST_ROWS and are_plain(*tensors)

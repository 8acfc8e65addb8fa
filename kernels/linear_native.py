"""`linear.py` in C++."""

import torch
from torch import Tensor

from . import linear as in_torch
from .by_device import reference
from .linear import Weight
from .native.library import are_plain, function
from .native.panels import can_pack, first_panel, panels_of

_MULTIPLY = function("multiply", "pippiiii")
_GATED_MLP = function("gated_mlp", "pippiipi")


def multiply(x: Tensor, weight: Weight) -> Tensor:
    """Return `x @ weight`."""
    if not (isinstance(weight, Tensor) and are_plain(x) and can_pack(weight)):
        return reference(in_torch.multiply)(x, weight)
    return _multiply(x, panels_of(weight), weight.shape[1])


def multiply_columns(x: Tensor, weight: Weight, first: int) -> Tensor:
    """Return `multiply(x, weight)[:, first:]`."""
    if isinstance(weight, Tensor) and are_plain(x) and can_pack(weight):
        panels = first_panel(weight, first)
        if panels is not None:
            return _multiply(x, panels, weight.shape[1] - first)
    return reference(in_torch.multiply_columns)(x, weight, first)


def _multiply(x: Tensor, panels: Tensor, columns: int) -> Tensor:
    rows = x.shape[0]
    out = torch.empty(rows, columns)
    _MULTIPLY(
        x.data_ptr(), x.stride(0), panels.data_ptr(), out.data_ptr(), rows, x.shape[1], columns,
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def gated_mlp(x: Tensor, gate_up: Weight, down: Weight) -> Tensor:
    """Return `down(silu(gate(x)) * up(x))`."""
    if not (isinstance(gate_up, Tensor) and isinstance(down, Tensor) and _takes(x, gate_up, down)):
        return reference(in_torch.gated_mlp)(x, gate_up, down)
    rows, hidden = x.shape
    out = torch.empty(rows, hidden)
    _GATED_MLP(
        x.data_ptr(), rows, panels_of(gate_up).data_ptr(), panels_of(down).data_ptr(), hidden, down.shape[0],
        out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out


def _takes(x: Tensor, gate_up: Tensor, down: Tensor) -> bool:
    return x.is_contiguous() and are_plain(x) and can_pack(gate_up, down)

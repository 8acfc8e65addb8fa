"""`rms_norm.py` in C++."""

import torch
from torch import Tensor

from . import rms_norm as in_torch
from .by_device import reference
from .native.library import are_plain, function

_NORM = function("rms_norm", "piipipiiiiifi")
_ADD_NORM = function("add_rms_norm", "ppppiifi")


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return the norm over the last dimension."""
    if not _takes(x, weight):
        return reference(in_torch.rms_norm)(x, weight, eps)
    out = torch.empty(x.shape)
    _norm_into(out, x, weight, eps)
    return out


def rms_norm_(x: Tensor, weight: Tensor, eps: float) -> None:
    """`rms_norm` in place."""
    if not _takes(x, weight):
        return reference(in_torch.rms_norm_)(x, weight, eps)
    return _norm_into(x, x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Add `x` to `residual` in place and return the sum normalised."""
    dense = x.is_contiguous() and residual.is_contiguous() and weight.dim() == 1
    if not (dense and x.dim() == 2 and x.shape == residual.shape and are_plain(x, residual, weight)):
        return reference(in_torch.add_rms_norm)(x, residual, weight, eps)
    out = torch.empty_like(x)
    rows, width = x.shape
    _ADD_NORM(
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        out.data_ptr(),
        rows,
        width,
        eps,
        torch.get_num_threads(),
    )
    return out


def _takes(x: Tensor, weight: Tensor) -> bool:
    fits = weight.dim() == 1 or (x.dim() == 3 and weight.shape == x.shape[1:])
    return fits and x.dim() in {2, 3} and are_plain(x, weight)


def _norm_into(out: Tensor, x: Tensor, weight: Tensor, eps: float) -> None:
    inner = x.shape[1] if x.dim() == 3 else 1
    steps, out_steps = x.stride(), out.stride()
    _NORM(
        x.data_ptr(),
        steps[0],
        steps[1] if inner > 1 else 0,
        weight.data_ptr(),
        weight.stride(0) if weight.dim() == 2 else 0,
        out.data_ptr(),
        out_steps[0],
        out_steps[1] if inner > 1 else 0,
        x.shape[0],
        inner,
        x.shape[-1],
        eps,
        torch.get_num_threads(),
    )

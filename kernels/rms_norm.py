"""Root-mean-square normalisation, with and without the addition that precedes it (arXiv 1910.07467).

The mean is taken in float32; the normalised value is rounded to the input's dtype before the weight.
"""

from functools import lru_cache

import torch
from torch import Tensor

from .by_device import by_device


@by_device
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return `x / sqrt(mean(x ** 2) + eps) * weight` over the last dimension.

    x        [..., width]   float32, bfloat16 or float16
    weight   [width], or any shape that broadcasts to x
    returns  [..., width]   x.dtype
    """
    return _normalised(x, eps).mul_(weight)


@by_device
def rms_norm_(x: Tensor, weight: Tensor, eps: float) -> None:
    """`rms_norm` in place; `x` may be a slice of a wider tensor."""
    torch.mul(_normalised(x, eps), weight, out=x)


@by_device
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Add `x` to `residual` in place and return the sum normalised.

    x, residual  [tokens, width]   float32, bfloat16 or float16
    weight       [width]
    returns      [tokens, width]   x.dtype
    """
    return rms_norm(residual.add_(x), weight, eps)


def _normalised(x: Tensor, eps: float) -> Tensor:
    """`x * sqrt(width) / hypot(|x|, sqrt(width * eps))`: fewer passes than mean and rsqrt."""
    root_width, floor = _constants(x.shape[-1], eps, x.device)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    factor = torch.div(root_width, torch.hypot(norm, floor))
    if x.dtype is torch.float32:
        return torch.mul(x, factor)
    return torch.mul(x, factor).to(x.dtype)


@lru_cache
def _constants(width: int, eps: float, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(width**0.5, device=device), torch.tensor((width * eps) ** 0.5, device=device)

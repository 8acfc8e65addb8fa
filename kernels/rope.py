"""Rotary position embedding (arXiv 2104.09864), in the two pairings that published weights use.

Interleaved: values (0, 1), (2, 3), ... of a head form the pairs (DeepSeek). Halves: value i pairs with value
i + dim / 2 (Qwen). Both turn pair i of position t by the angle in a table that holds unit complex numbers,
times the attention factor of YaRN.
"""

import torch
from torch import Tensor

from .by_device import by_device


@by_device
def rope_interleaved_(x: Tensor, turns: Tensor) -> None:
    """Rotate in place.

    x      [..., dim]        float32, bfloat16 or float16; a slice of a wider tensor is fine
    turns  [..., dim / 2]    complex64, broadcasts to x's pairs
    """
    if x.dtype is torch.float32:
        torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)).mul_(turns)
    else:
        pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
        x.copy_(torch.view_as_real(pairs.mul_(turns)).flatten(-2))


@by_device
def rope_halves_(x: Tensor, turns: Tensor) -> None:
    """Rotate in place.

    x      [..., dim]        float32, bfloat16 or float16; a slice of a wider tensor is fine
    turns  [..., dim / 2]    complex64, broadcasts to half a head
    """
    first, second = x.chunk(2, -1)
    turned = torch.complex(first.float(), second.float()).mul_(turns)
    first.copy_(turned.real)
    second.copy_(turned.imag)

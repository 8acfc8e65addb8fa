"""Dense matrix products, with a plain weight `[in, out]` or with a block-FP8 one as it is published."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .by_device import by_device, on_cpu
from .fp8 import dequantise_blocks, dequantise_groups, quantise_groups
from .silu_mul import silu_mul, silu_mul_quantise


@dataclass(frozen=True, slots=True)
class Fp8Weight:
    """A block-FP8 weight."""

    values: Tensor
    """[out, in] float8_e4m3fn, as published"""
    scales: Tensor
    """[ceil(out / 128), ceil(in / 128)] float32"""

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs, in the order of a plain weight."""
        return self.values.shape[1], self.values.shape[0]


Weight = Tensor | Fp8Weight
"""`[in, out]`"""


@on_cpu
def multiply(x: Tensor, weight: Weight) -> Tensor:
    """Return `x @ weight`: `[tokens, out]` of x.dtype. For an FP8 weight, x is quantised to FP8 first.

    x  [tokens, in]
    """
    if isinstance(weight, Tensor):
        return torch.mm(x, weight)
    return linear_fp8(*quantise_groups(x), weight.values, weight.scales).to(x.dtype)


@on_cpu
def multiply_columns(x: Tensor, weight: Weight, first: int) -> Tensor:
    """Return `multiply(x, weight)[:, first:]`, a plain weight's other columns not computed."""
    if isinstance(weight, Tensor):
        return torch.mm(x, weight[:, first:])
    return multiply(x, weight)[:, first:]


@on_cpu
def gated_mlp(x: Tensor, gate_up: Weight, down: Weight) -> Tensor:
    """Return `down(silu(gate(x)) * up(x))`: `[tokens, hidden]` of x.dtype.

    x        [tokens, hidden]
    gate_up  [hidden, 2 * width], gate first
    down     [width, hidden]
    """
    hidden = multiply(x, gate_up)
    if isinstance(down, Tensor):
        return torch.mm(silu_mul(hidden), down)
    return linear_fp8(*silu_mul_quantise(hidden), down.values, down.scales).to(x.dtype)


@by_device
def linear_fp8(x: Tensor, x_scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """Multiply rows that `quantise_groups` made.

    x              [tokens, in]                        float8_e4m3fn
    x_scales       [tokens, ceil(in / 128)]            float32
    weight         [out, in]                           float8_e4m3fn
    weight_scales  [ceil(out / 128), ceil(in / 128)]   float32
    returns        [tokens, out]                       bfloat16
    """
    return (dequantise_groups(x, x_scales) @ dequantise_blocks(weight, weight_scales).t()).bfloat16()

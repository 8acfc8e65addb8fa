"""A dense matrix product with a block-FP8 weight, as published weights lie: `x @ weight.T`."""

from torch import Tensor

from .by_device import by_device
from .fp8 import dequantise_blocks, dequantise_groups


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

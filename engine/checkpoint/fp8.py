"""Block-FP8 weights: float8_e4m3fn values and one float32 factor for each block, `weight_scale_inv`.

The factor multiplies in spite of its name. Weights are expanded to the compute dtype while loading, except
where `Weights` keeps them for a device with FP8 matrix units.
"""

import math

import torch
from torch import Tensor

SCALE_SUFFIX = "_scale_inv"


def scale_shape(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    """Shape of the factors of a `[out, in]` weight; blocks at the edges may be partial."""
    return math.ceil(shape[0] / block[0]), math.ceil(shape[1] / block[1])


def dequantise(weight: Tensor, scale: Tensor, block: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Expand a block-FP8 weight.

    weight   [out, in]                                      float8_e4m3fn
    scale    [ceil(out / block[0]), ceil(in / block[1])]    float32
    returns  [out, in]                                      dtype
    """
    out, inner = weight.shape
    rows = scale.repeat_interleave(block[0], 0)[:out]
    return (weight.float() * rows.repeat_interleave(block[1], 1)[:, :inner]).to(dtype)

"""Eight-bit floating point with one float32 factor a group of values (DeepSeek-V3 report, section 3.3.2).

Activations carry a factor for each token and 128 columns, weights one for each block of 128 x 128. A factor
multiplies: `value = fp8 * factor`.
"""

import torch
from torch import Tensor

from .by_device import by_device

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
GROUP = 128
SMALLEST = 1e-10  # the largest value of a group is taken to be at least this

Quantised = tuple[Tensor, Tensor]
"""Rows in FP8: values and factors, as `quantise_groups` has them; leading dimensions are free"""


@by_device
def quantise_groups(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each token in groups of 128 columns, the last group as wide as is left.

    x        [tokens, width]   float32, bfloat16 or float16
    returns  [tokens, width] float8_e4m3fn, [tokens, ceil(width / 128)] float32
    """
    tokens, width = x.shape
    padded = torch.nn.functional.pad(x.float(), (0, -width % GROUP)).view(tokens, -(-width // GROUP), GROUP)
    scales = padded.abs().amax(-1).clamp_(min=SMALLEST) / FP8_MAX
    values = (padded / scales.unsqueeze(-1)).to(FP8).flatten(1)[:, :width]
    return values.contiguous(), scales


def dequantise_groups(values: Tensor, scales: Tensor) -> Tensor:
    """Undo `quantise_groups` in float32: leading dimensions are free."""
    return values.float() * scales.repeat_interleave(GROUP, -1)[..., : values.shape[-1]]


def quantise_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a weight in blocks of 128 x 128; blocks at the edges may be partial.

    weight   [..., out, in]
    returns  [..., out, in] float8_e4m3fn, [..., ceil(out / 128), ceil(in / 128)] float32
    """
    out, inner = weight.shape[-2:]
    padded = torch.nn.functional.pad(weight.float(), (0, -inner % GROUP, 0, -out % GROUP))
    blocks = padded.view(*padded.shape[:-2], -(-out // GROUP), GROUP, -(-inner // GROUP), GROUP)
    scales = blocks.abs().amax((-3, -1)).clamp_(min=SMALLEST) / FP8_MAX
    values = (blocks / scales[..., :, None, :, None]).to(FP8)
    return values.flatten(-4, -3).flatten(-2)[..., :out, :inner].contiguous(), scales


def dequantise_blocks(values: Tensor, scales: Tensor) -> Tensor:
    """Undo `quantise_blocks` in float32."""
    out, inner = values.shape[-2:]
    rows = scales.repeat_interleave(GROUP, -2)[..., :out, :]
    return values.float() * rows.repeat_interleave(GROUP, -1)[..., :inner]

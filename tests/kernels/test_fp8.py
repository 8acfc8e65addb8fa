"""Quantised values stand for what they came from, to FP8's precision, with a factor a group or block."""

import pytest
import torch

from baton.kernels.fp8 import (
    FP8_MAX,
    dequantise_blocks,
    dequantise_groups,
    quantise_blocks,
    quantise_groups,
)
from baton.kernels.linear import linear_fp8
from baton.kernels.silu_mul import silu_mul, silu_mul_quantise

HALF_PLACE = 2**-4
"""Largest relative rounding error of a value with three bits after the point"""


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("width", [128, 300, 5])
def test_each_group_of_a_token_is_scaled_to_its_own_largest_value(width: int) -> None:
    x = normal(4, width)
    x[2] *= 1e4

    values, scales = quantise_groups(x)

    for group in range(-(-width // 128)):
        columns = slice(128 * group, 128 * group + 128)
        torch.testing.assert_close(scales[:, group], x[:, columns].abs().amax(1) / FP8_MAX)
    floor = scales.repeat_interleave(128, 1)[:, :width] * 2**-6  # below are FP8's subnormal values
    allowed = torch.maximum(x.abs(), floor) * HALF_PLACE
    assert ((dequantise_groups(values, scales) - x).abs() <= allowed * 1.001).all()


def test_zeros_stay_zeros() -> None:
    values, scales = quantise_groups(torch.zeros(2, 130))

    assert torch.equal(dequantise_groups(values, scales), torch.zeros(2, 130))


@pytest.mark.parametrize("shape", [(128, 128), (2, 150, 260)])
def test_each_block_of_a_weight_is_scaled_to_its_own_largest_value(shape: tuple[int, ...]) -> None:
    weight = normal(*shape)
    weight[..., :128, 128:] *= 1e3

    values, scales = quantise_blocks(weight)

    torch.testing.assert_close(scales[..., 0, 0], weight[..., :128, :128].abs().amax((-2, -1)) / FP8_MAX)
    torch.testing.assert_close(dequantise_blocks(values, scales), weight, rtol=HALF_PLACE, atol=0.02)


def test_a_product_uses_both_sides_factors() -> None:
    x, weight = normal(3, 260) * 50, normal(140, 260)

    actual = linear_fp8(*quantise_groups(x), *quantise_blocks(weight)).float()

    error = (actual - x @ weight.t()).norm() / (x @ weight.t()).norm()
    assert error < 0.05


def test_the_quantised_activation_stands_for_the_plain_one() -> None:
    gate_up = normal(3, 520)

    plain = silu_mul(gate_up)

    torch.testing.assert_close(
        dequantise_groups(*silu_mul_quantise(gate_up)), plain, rtol=HALF_PLACE, atol=2e-4
    )

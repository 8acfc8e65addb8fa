"""One multiplication for both kinds of weights."""

import pytest
import torch

from baton.bench.gpu.error import relative_error
from baton.kernels.fp8 import dequantise_blocks, quantise_blocks
from baton.kernels.linear import Fp8Weight, multiply

FP8_TOLERANCE = 4e-2
"""Activations are rounded to FP8, by 2^-4 of a value at most."""


def weight() -> tuple[torch.Tensor, Fp8Weight]:
    published = torch.randn(300, 200, generator=torch.Generator().manual_seed(1)) / 200**0.5
    values, scales = quantise_blocks(published)
    return dequantise_blocks(values, scales).t(), Fp8Weight(values, scales)


def test_a_plain_weight_is_a_matrix_product() -> None:
    x, plain = torch.ones(3, 200), weight()[0]

    torch.testing.assert_close(multiply(x, plain), x @ plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_fp8_weight_gives_what_its_expansion_does(dtype: torch.dtype) -> None:
    x = torch.randn(5, 200, generator=torch.Generator().manual_seed(2)).to(dtype)
    plain, fp8 = weight()

    out = multiply(x, fp8)

    assert fp8.shape == tuple(plain.shape)
    assert out.dtype is dtype
    assert relative_error(out, x.float() @ plain) <= FP8_TOLERANCE

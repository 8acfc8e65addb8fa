"""RMS norm equals its formula in float64, in every dtype, shape and form."""

import pytest
import torch
from torch import Tensor

from baton.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_

EPS = 1e-6
SHAPES = [(1, 7), (3, 100), (2, 5, 16)]


def formula(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator).to(dtype)
    return x, torch.randn(shape[-1], generator=generator).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_equals_the_formula(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = inputs(shape, dtype)

    actual = rms_norm(x, weight, EPS)

    assert actual.dtype is dtype
    torch.testing.assert_close(actual, formula(x, weight, EPS).to(dtype))


def test_epsilon_counts_where_values_are_small() -> None:
    x, weight = inputs((2, 9))

    torch.testing.assert_close(rms_norm(x * 1e-3, weight, 0.1), formula(x * 1e-3, weight, 0.1).float())


def test_a_row_of_zeros_stays_zero() -> None:
    assert torch.equal(rms_norm(torch.zeros(2, 8), torch.ones(8), EPS), torch.zeros(2, 8))


def test_a_slice_is_normalised_in_place_and_its_neighbours_stay() -> None:
    x, weight = inputs((3, 20))
    before = x.clone()

    rms_norm_(x[:, 4:12], weight[:8], EPS)

    torch.testing.assert_close(x[:, 4:12], formula(before[:, 4:12], weight[:8], EPS).float())
    assert torch.equal(x[:, :4], before[:, :4])
    assert torch.equal(x[:, 12:], before[:, 12:])


def test_the_addition_goes_into_the_residual() -> None:
    x, weight = inputs((3, 16))
    residual = torch.ones(3, 16)

    actual = add_rms_norm(x, residual, weight, EPS)

    torch.testing.assert_close(residual, x + 1)
    torch.testing.assert_close(actual, formula(x + 1, weight, EPS).float())

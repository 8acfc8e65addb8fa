"""Packed weights give the products of the weights they were made of, whoever computes which part."""

import gc

import pytest
import torch

from baton.kernels.by_device import native, reference
from baton.kernels.linear import multiply, multiply_columns
from baton.kernels.native import panels
from baton.kernels.native.library import library

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler")


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return native(reference(multiply))(x, weight)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("rows", "depth", "columns"), [(0, 5, 7), (1, 33, 64), (13, 40, 100), (211, 70, 9)])
def test_a_product_of_any_shape_by_any_number_of_threads(
    rows: int, depth: int, columns: int, threads: int
) -> None:
    before = torch.get_num_threads()
    x, weight = torch.randn(rows, depth), torch.randn(depth, columns)
    torch.set_num_threads(threads)
    try:
        found = [product(x, weight) for _ in range(20)]
    finally:
        torch.set_num_threads(before)

    for each in found:
        torch.testing.assert_close(each, x @ weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", [0, 32, 33])
def test_some_columns_are_those_of_the_whole_product(first: int) -> None:
    x, weight = torch.randn(9, 20), torch.randn(20, 70)

    found = native(reference(multiply_columns))(x, weight, first)

    torch.testing.assert_close(found, (x @ weight)[:, first:], rtol=1e-4, atol=1e-4)


def test_a_weight_that_was_written_to_is_packed_anew() -> None:
    x, weight = torch.randn(3, 8), torch.randn(8, 16)
    product(x, weight)

    weight.add_(1.0)

    torch.testing.assert_close(product(x, weight), x @ weight, rtol=1e-4, atol=1e-4)


def test_panels_live_no_longer_than_their_weight() -> None:
    gc.collect()  # what other tests have left behind
    before = len(panels._KEPT)
    weight = torch.randn(8, 16)
    panels.panels_of(weight)
    assert len(panels._KEPT) == before + 1

    del weight
    gc.collect()

    assert len(panels._KEPT) == before

"""Products on the processor's matrix unit are float32 products, at least as exact as those of its vectors."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from baton.kernels.attention import attend
from baton.kernels.by_device import native, reference
from baton.kernels.linear import gated_mlp, multiply
from baton.kernels.native.library import function, library

use_matrix_unit = function("use_matrix_unit", "i")

pytestmark = [
    pytest.mark.skipif(library() is None, reason="no C++ compiler"),
    pytest.mark.skipif(library() is not None and not use_matrix_unit(1), reason="no matrix unit"),
]
EPSILON = 2.0**-24


@contextmanager
def without_it() -> Iterator[None]:
    use_matrix_unit(0)
    try:
        yield
    finally:
        use_matrix_unit(1)


def product(x: Tensor, weight: Tensor) -> Tensor:
    return native(reference(multiply))(x, weight)


def error(x: Tensor, weight: Tensor) -> Tensor:
    """Of each value, in float32's rounding of what was summed up for it."""
    exact = x.double() @ weight.double()
    scale = x.double().abs() @ weight.double().abs()
    return (product(x, weight).double() - exact).abs() / scale / EPSILON


@pytest.mark.parametrize("rows", [64, 97, 128, 300])
@pytest.mark.parametrize("depth", [1, 31, 33, 128, 130, 513, 1100])
@pytest.mark.parametrize("columns", [33, 64, 90, 128])
def test_a_product_of_any_shape_is_as_exact_as_with_vectors(rows: int, depth: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows + depth + columns)
    x, weight = (
        torch.randn(rows, depth, generator=generator),
        torch.randn(depth, columns, generator=generator),
    )

    on_unit = error(x, weight)
    with without_it():
        with_vectors = error(x, weight)

    # A lone product is rounded once with vectors; what the unit leaves out may be as much again.
    assert on_unit.mean() <= with_vectors.mean() + 0.5
    assert on_unit.max() <= max(4.0, with_vectors.max().item())


def test_the_unit_is_what_computes_many_rows() -> None:
    x, weight = torch.randn(200, 300), torch.randn(300, 96)

    on_unit = product(x, weight)

    with without_it():
        assert not torch.equal(on_unit, product(x, weight))


@pytest.mark.parametrize("columns", [64, 160])
def test_a_value_does_not_depend_on_how_many_threads_there_are(columns: int) -> None:
    x, weight = torch.randn(300, 600), torch.randn(600, columns)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(product(x, weight))
    finally:
        torch.set_num_threads(before)

    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("power", [-60, -30, 30, 60])
def test_small_and_large_values_lose_nothing(power: int) -> None:
    x, weight = torch.randn(64, 100), torch.randn(100, 64)

    assert torch.equal(product(x * 2.0**power, weight), product(x, weight) * 2.0**power)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_number_spoils_its_row_and_no_other(value: float) -> None:
    x, weight = torch.randn(80, 70), torch.randn(70, 64)
    x[5, 40] = value
    x[17].view(torch.int32)[3] = -1  # a NaN of all bits

    finite = product(x, weight).isfinite()

    assert not finite[5].any()
    assert not finite[17].any()
    assert finite[[row for row in range(80) if row not in {5, 17}]].all()


def test_a_gated_mlp_of_many_rows() -> None:
    x, gate_up, down = torch.randn(150, 70), torch.randn(70, 160) / 8, torch.randn(80, 70) / 8

    on_unit = native(reference(gated_mlp))(x, gate_up, down)

    torch.testing.assert_close(on_unit, reference(gated_mlp)(x, gate_up, down), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("queries", "more_keys", "width", "value_width"), [(64, 0, 64, 64), (300, 0, 40, 72), (77, 600, 192, 128)]
)
def test_attention_of_prompts(
    queries: int, more_keys: int, width: int, value_width: int, causal: bool
) -> None:
    keys = queries if causal else queries + more_keys
    q, k, v = (
        torch.randn(2, 3, queries, width),
        torch.randn(2, keys, width),
        torch.randn(2, keys, value_width),
    )

    on_unit = native(reference(attend))(q, k, v, scale=0.1, causal=causal)

    expected = reference(attend)(q.double(), k.double(), v.double(), scale=0.1, causal=causal)
    for found, exact in zip(on_unit, expected, strict=True):
        torch.testing.assert_close(found.double(), exact.double(), rtol=1e-5, atol=2e-6)

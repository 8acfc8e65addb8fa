"""The error metric sees what a mean would hide."""

import pytest
import torch

from baton.bench.gpu.error import relative_error


def test_equal_tensors_have_no_error() -> None:
    assert relative_error(torch.ones(3), torch.ones(3)) == 0.0


def test_one_wrong_row_of_many_shows() -> None:
    expected = torch.ones(1000, 8)
    actual = expected.clone()
    actual[7] = 0.0

    assert relative_error(actual, expected) > 0.03


def test_a_nan_is_infinitely_wrong() -> None:
    assert relative_error(torch.tensor([1.0, float("nan")]), torch.ones(2)) == float("inf")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_another_value_in_the_place_of_an_infinity_is_infinitely_wrong(wrong: float) -> None:
    masked = torch.tensor([1.0, float("-inf")])

    assert relative_error(torch.tensor([1.0, wrong]), masked) == float("inf")


def test_infinities_in_the_same_places_are_no_error() -> None:
    both = torch.tensor([1.0, float("-inf")])

    assert relative_error(both, both) == 0.0

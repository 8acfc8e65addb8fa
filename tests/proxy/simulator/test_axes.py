"""Axes span their values, and their ticks are round numbers within them."""

import pytest

from baton.proxy.simulator.axes import Axis, log_axis, zero_axis


def test_a_logarithmic_axis_begins_and_ends_at_a_round_number_around_its_values() -> None:
    axis = log_axis("s", [0.03, 0.0, 7.0])

    assert (axis.low, axis.high) == (0.02, 10.0)
    assert [text for _, text in axis.ticks()] == ["0.1", "1", "10"]
    assert (axis.place(0.02), axis.place(10.0), axis.place(99.0)) == (0.0, 1.0, 1.0)


def test_a_short_one_has_more_ticks() -> None:
    assert [text for _, text in log_axis("ms", [12, 45]).ticks()] == ["10", "20", "50"]


def test_an_even_axis_begins_at_zero_and_has_few_round_ticks() -> None:
    axis = zero_axis("1/s", [3.0, 17.3])

    assert (axis.low, axis.high) == (0.0, 18.0)
    assert [text for _, text in axis.ticks()] == [str(value) for value in range(0, 19, 2)]


@pytest.mark.parametrize("values", [[], [0.0], [5.0], [5.0, 5.0]])
def test_nothing_or_one_value_still_makes_an_axis(values: list[float]) -> None:
    for axis in (log_axis("x", values), zero_axis("x", values)):
        assert axis.low < axis.high
        assert axis.ticks()


def test_shares_are_ticked_as_percentages() -> None:
    assert [text for _, text in Axis("share", 0.0, 1.0, percent=True).ticks()][-2:] == ["90%", "100%"]

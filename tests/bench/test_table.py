"""Tables line up, percentiles are of the values."""

import math

from baton.bench.table import ms, percentile, render


def test_columns_line_up() -> None:
    assert render(["name", "value"], [["a", "1"], ["longer", "23456789"]]).splitlines() == [
        "name       value",
        "------  --------",
        "a              1",
        "longer  23456789",
    ]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]

    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]
    assert math.isnan(percentile([], 0.5))


def test_seconds_read_as_milliseconds() -> None:
    assert ms(0.01234) == "12.3"

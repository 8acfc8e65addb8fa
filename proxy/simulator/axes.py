"""Axes of plots: which part of the numbers they span, and where their ticks are."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

MOST_TICKS = 10
FEW_DECADES = 2.5
"""So many decades or fewer have ticks at 2 and 5 as well."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, evenly by number or by ratio."""

    label: str
    low: float
    high: float
    logarithmic: bool = False
    percent: bool = False

    def place(self, value: float) -> float:
        """Return where `value` is, 0 at the low end and 1 at the high one; beyond them it is moved there."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the values that are marked, and their texts."""
        values = self._ratios() if self.logarithmic else self._steps()
        return [(value, f"{value:.0%}" if self.percent else f"{value:.10g}") for value in values]

    def _ratios(self) -> list[float]:
        decades = log10(self.high / self.low)
        parts = (1, 2, 5) if decades <= FEW_DECADES else (1,)
        powers = range(floor(log10(self.low)) - 1, ceil(log10(self.high)) + 1)
        values = [part * 10.0**power for power in powers for part in parts]
        return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]

    def _steps(self) -> list[float]:
        step = _round_up((self.high - self.low) / MOST_TICKS)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def log_axis(label: str, values: Sequence[float]) -> Axis:
    """Return an axis by ratio that `values` (those above 0) fit on, from and to a 1, 2 or 5."""
    positive = [value for value in values if value > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
    low, high = _round_down(low), _round_up(high)
    return Axis(label, low, high if high > low else low * 10, logarithmic=True)


def zero_axis(label: str, values: Sequence[float]) -> Axis:
    """Return an even axis from 0 that `values` fit on."""
    most = max([*values, 0.0]) or 1.0
    step = _round_up(most / MOST_TICKS)
    return Axis(label, 0.0, ceil(most / step) * step)


def _round_up(value: float) -> float:
    unit = 10.0 ** floor(log10(value))
    return next(part * unit for part in (1, 2, 5, 10) if part * unit >= value * (1 - 1e-9))


def _round_down(value: float) -> float:
    unit = 10.0 ** floor(log10(value))
    return next(part * unit for part in (5, 2, 1) if part * unit <= value * (1 + 1e-9))

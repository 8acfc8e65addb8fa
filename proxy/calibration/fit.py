"""Seconds as a sum of coefficients times features, none below 0, so that relative errors are least. No I/O.

Times vary in proportion to their size: a millisecond is much of a short prompt and nothing of a long one.
What is far off counts in proportion to how far, not to the square: a machine stalls now and then.
"""

from collections import defaultdict
from collections.abc import Sequence
from operator import mul
from statistics import median

import msgspec

from ..routing.least_squares import solve_non_negative

RIDGE = 1e-9
"""Keeps features that always go together solvable; it costs no digit that a clock could measure."""
ROUNDS = 20
"""Of weighing the samples anew by how far off they are."""
USUAL_ERROR = 0.05
"""Below it errors count squared."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that took `seconds`."""

    features: tuple[float, ...]
    seconds: float


class LinearFit(msgspec.Struct, frozen=True, kw_only=True):
    """Coefficients, and what they are taken from: one sample, the median, of each kind."""

    coefficients: tuple[float, ...]
    samples: tuple[Sample, ...]

    def seconds(self, sample: Sample) -> float:
        """Return what the fit says of it."""
        return sum(c * feature for c, feature in zip(self.coefficients, sample.features, strict=True))

    def errors(self) -> list[float]:
        """Return fitted over measured less 1, for each sample."""
        return [self.seconds(sample) / sample.seconds - 1.0 for sample in self.samples]


def fit_linear(samples: Sequence[Sample]) -> LinearFit:
    """Fit to the median of the samples that have the same features. There must be one, of above 0 seconds."""
    kinds = _medians(samples)
    size = len(kinds[0].features)
    rows = [[feature / kind.seconds for feature in kind.features] for kind in kinds]
    # Each column by its own size: bytes and steps differ by nine orders of magnitude.
    units = [max(abs(row[column]) for row in rows) or 1.0 for column in range(size)]
    scaled = [[value / unit for value, unit in zip(row, units, strict=True)] for row in rows]
    shares = [0.0] * size
    weights = [1.0] * len(scaled)
    for _ in range(ROUNDS):
        shares = _solve(scaled, weights)
        errors = [abs(sum(map(mul, shares, row)) - 1.0) for row in scaled]
        weights = [1.0 / max(error / USUAL_ERROR, 1.0) for error in errors]
    coefficients = tuple(share / unit for share, unit in zip(shares, units, strict=True))
    return LinearFit(coefficients=coefficients, samples=tuple(kinds))


def _solve(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """Return what, times each row, is nearest to 1."""
    size = range(len(rows[0]))
    moments = [
        [sum(weight * row[i] * row[j] for row, weight in zip(rows, weights, strict=True)) for j in size]
        for i in size
    ]
    for i in size:
        moments[i][i] += RIDGE * sum(weights)
    target = [sum(weight * row[i] for row, weight in zip(rows, weights, strict=True)) for i in size]
    return solve_non_negative(moments, target)


def _medians(samples: Sequence[Sample]) -> list[Sample]:
    kinds: defaultdict[tuple[float, ...], list[float]] = defaultdict(list)
    for sample in samples:
        kinds[sample.features].append(sample.seconds)
    return [Sample(features=features, seconds=median(seconds)) for features, seconds in sorted(kinds.items())]

"""Linear fits that follow a changing truth: least squares in which older observations count less.

Times vary in proportion to their size, so errors relative to the prior's prediction are minimised. Every
coefficient is a cost and never negative. The fit starts from a prior, which counts like some observations at
first, and a little for ever, so that directions the data say nothing about stay where the prior put them.

No clock, no I/O; `rates` gives the coefficients their meaning.
"""

from collections.abc import Sequence
from itertools import combinations
from math import inf, isfinite

Matrix = list[list[float]]
Vector = list[float]

SURPRISE = 8.0
"""An observation counts as at most so many times what was expected: one stall must not undo the fit."""
LARGEST_RATIO = 1e4
"""Coefficients stay below so many times their prior."""
_LASTING_PRIOR = 1e-3
_SMALLEST_EXPECTED = 1e-3

SETTLED = 32.0
"""A fit that rests on so many observations moves little with each one more,"""
SOLVED_EVERY = 8
"""and is solved again after so many of them: solving is most of what an observation costs."""


class DecayedFit:
    """Seconds as a non-negative combination of features; what is fitted are the ratios to the prior."""

    __slots__ = (
        "_memory", "_moments", "_prior_weight", "_ratios", "_targets", "_unsolved", "_weight",
        "coefficients", "due_at", "prior",
    )  # fmt: skip

    def __init__(self, prior: Sequence[float], *, memory: float, prior_weight: float) -> None:
        """Start from `prior` (positive), counted as `prior_weight` observations; rest on about `memory`."""
        if not all(value > 0 and isfinite(value) for value in prior):
            raise ValueError(f"prior coefficients {list(prior)} are not all positive")
        size = len(prior)
        self.prior = tuple(prior)
        self._memory = 1.0 - 1.0 / memory
        self._prior_weight = prior_weight
        self._ratios = [1.0] * size
        self.coefficients = self.prior
        """Seconds per unit of each feature, as fitted now."""
        self._moments = [[0.0] * size for _ in range(size)]
        self._targets = [0.0] * size
        self._weight = 0.0
        self._unsolved = 0
        self.due_at = -inf
        """When its owner wants the next observation."""

    @property
    def observations(self) -> float:
        """How many observations the fit rests on, decayed; at most `memory`."""
        return self._weight

    def predict(self, features: Sequence[float]) -> float:
        """Return the expected seconds, never negative."""
        return sum(
            coefficient * feature for coefficient, feature in zip(self.coefficients, features, strict=True)
        )

    def observe(self, features: Sequence[float], seconds: float) -> None:
        """Learn that `features` (none negative, not all 0) took `seconds`."""
        if not (isfinite(seconds) and seconds >= 0.0):
            raise ValueError(f"{seconds} is no duration")
        by_prior: list[float] = []
        scale = expected = 0.0
        for feature, value, coefficient in zip(features, self.prior, self.coefficients, strict=True):
            if not 0.0 <= feature < inf:
                raise ValueError(f"features {list(features)} are not all finite and at least 0")
            by_prior.append(feature * value)
            scale += feature * value
            expected += feature * coefficient
        expected = max(expected, _SMALLEST_EXPECTED * scale)
        counted = min(seconds, SURPRISE * expected)
        self._weight = self._weight * self._memory + 1.0
        self._prior_weight *= self._memory
        # Fixed weights, the prior's prediction: weights that move with the fit would bias it.
        self._accumulate([part / scale for part in by_prior], counted / scale)
        self._unsolved += 1
        if self._weight < SETTLED or self._unsolved >= SOLVED_EVERY:
            self._unsolved = 0
            self._ratios = self._solve()
            self.coefficients = tuple(
                ratio * value for ratio, value in zip(self._ratios, self.prior, strict=True)
            )

    def _accumulate(self, shares: Vector, outcome: float) -> None:
        memory, targets = self._memory, self._targets
        for i, (row, share) in enumerate(zip(self._moments, shares, strict=True)):
            row[:] = [old * memory + share * other for old, other in zip(row, shares, strict=True)]
            targets[i] = targets[i] * memory + share * outcome

    def _solve(self) -> Vector:
        pull = self._prior_weight + _LASTING_PRIOR
        matrix = [
            [value + pull * (i == j) for j, value in enumerate(row)] for i, row in enumerate(self._moments)
        ]
        ratios = solve_non_negative(matrix, [target + pull for target in self._targets])
        return [min(ratio, LARGEST_RATIO) for ratio in ratios]


def solve_non_negative(matrix: Matrix, target: Vector) -> Vector:
    """Return the x >= 0 that minimises `x.matrix.x / 2 - target.x`, for a small positive definite `matrix`.

    The minimum over x >= 0 is the free minimum over some of the coordinates with the others at 0; with the
    few coordinates there are here, all choices are tried.
    """
    size = len(target)
    everything = solve_positive_definite(matrix, target)
    if min(everything) >= 0.0:
        return everything
    best, least = [0.0] * size, 0.0
    for count in range(1, size):
        for kept in combinations(range(size), count):
            part = solve_positive_definite(
                [[matrix[i][j] for j in kept] for i in kept], [target[i] for i in kept]
            )
            # At a free minimum the objective is -target.x / 2.
            value = -sum(x * target[i] for x, i in zip(part, kept, strict=True)) / 2
            if min(part) >= 0.0 and value < least:
                least = value
                best = [0.0] * size
                for x, i in zip(part, kept, strict=True):
                    best[i] = x
    return best


def solve_positive_definite(matrix: Matrix, target: Vector) -> Vector:
    """Return the solution of `matrix.x = target` by Gaussian elimination, which needs no pivots here."""
    rows = [[*row, value] for row, value in zip(matrix, target, strict=True)]
    size = len(rows)
    for pivot in range(size):
        for below in range(pivot + 1, size):
            factor = rows[below][pivot] / rows[pivot][pivot]
            for column in range(pivot, size + 1):
                rows[below][column] -= factor * rows[pivot][column]
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(rows[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (rows[i][size] - known) / rows[i][i]
    return solution

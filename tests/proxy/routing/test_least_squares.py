"""Fits find the truth under noise, follow it when it changes, and stay sane on nonsense."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.proxy.routing.least_squares import (
    LARGEST_RATIO,
    DecayedFit,
    solve_non_negative,
    solve_positive_definite,
)

PRIOR = (0.01, 1e-4, 2e-3)


def fit(prior: tuple[float, ...] = PRIOR, memory: float = 100.0) -> DecayedFit:
    return DecayedFit(prior, memory=memory, prior_weight=4.0)


def teach(
    taught: DecayedFit, truth: tuple[float, ...], *, count: int, noise: float = 0.0, seed: int = 0
) -> None:
    generator = random.Random(seed)
    for _ in range(count):
        features = (1.0, generator.uniform(10, 8000), generator.randrange(8))
        exact = sum(c * x for c, x in zip(truth, features, strict=True))
        taught.observe(features, exact * generator.lognormvariate(-(noise**2) / 2, noise))


def test_a_fit_predicts_its_prior_before_it_saw_anything() -> None:
    assert fit().predict((1.0, 1000.0, 2.0)) == pytest.approx(0.01 + 0.1 + 0.004)
    assert fit().coefficients == PRIOR


@pytest.mark.parametrize("truth", [(0.01, 1e-4, 2e-3), (0.04, 3e-5, 0.01), (0.002, 1.5e-3, 5e-4)])
def test_known_coefficients_are_recovered_without_noise(truth: tuple[float, ...]) -> None:
    taught = fit()
    teach(taught, truth, count=1500)

    assert taught.coefficients == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_known_coefficients_are_recovered_under_noise(seed: int) -> None:
    truth, taught = (0.04, 3e-5, 0.01), fit(memory=400.0)
    teach(taught, truth, count=2000, noise=0.2, seed=seed)

    base, per_token, per_neighbour = taught.coefficients
    assert per_token == pytest.approx(truth[1], rel=0.1)
    assert base == pytest.approx(truth[0], rel=0.25)
    assert per_neighbour == pytest.approx(truth[2], rel=0.25)
    assert taught.predict((1.0, 2000.0, 3.0)) == pytest.approx(0.13, rel=0.05)


def test_a_prior_that_is_wrong_by_a_factor_of_fifty_is_outlived() -> None:
    for factor in (50.0, 0.02):
        taught = fit()
        teach(taught, tuple(factor * value for value in PRIOR), count=800, noise=0.1)

        assert taught.predict((1.0, 1000.0, 2.0)) == pytest.approx(factor * 0.114, rel=0.1)


def test_the_old_truth_is_forgotten_over_the_memory() -> None:
    before, after = (0.01, 1e-4, 2e-3), (0.03, 4e-4, 2e-3)
    taught = fit(memory=50.0)
    teach(taught, before, count=500)
    expected = sum(c * x for c, x in zip(after, (1.0, 2000.0, 2.0), strict=True))
    distances = []
    for part in range(5):
        teach(taught, after, count=50, seed=part)
        distances.append(abs(taught.predict((1.0, 2000.0, 2.0)) / expected - 1))

    assert distances[-1] < 0.03
    assert all(later < earlier for earlier, later in pairwise(distances))


def test_one_stall_moves_a_settled_fit_by_little() -> None:
    taught = fit()
    teach(taught, PRIOR, count=300)
    taught.observe((1.0, 1000.0, 2.0), 600.0)

    assert taught.predict((1.0, 1000.0, 2.0)) < 1.35 * 0.114


def test_what_the_data_do_not_tell_apart_keeps_the_shape_of_the_prior() -> None:
    taught = fit()
    for _ in range(500):
        taught.observe((1.0, 1000.0, 0.0), 0.22)

    assert taught.predict((1.0, 1000.0, 0.0)) == pytest.approx(0.22, rel=0.01)
    base, per_token, per_neighbour = taught.coefficients
    assert per_neighbour == pytest.approx(PRIOR[2])
    assert base > PRIOR[0]
    assert per_token > PRIOR[1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    observations=st.lists(
        st.tuples(st.floats(0, 1e7), st.integers(0, 5000), st.floats(0, 1e5)), min_size=1, max_size=60
    ),
    probe=st.tuples(st.floats(0, 1e7), st.integers(0, 5000)),
)
def test_coefficients_are_never_negative_and_stay_in_bounds_whatever_is_observed(
    observations: list[tuple[float, int, float]], probe: tuple[float, int]
) -> None:
    taught = fit(memory=10.0)
    for tokens, neighbours, seconds in observations:
        taught.observe((1.0, tokens, neighbours), seconds)

    for value, prior in zip(taught.coefficients, PRIOR, strict=True):
        assert 0.0 <= value <= LARGEST_RATIO * prior * (1 + 1e-9)
    assert taught.predict((1.0, *probe)) >= 0.0
    assert taught.observations <= 10.0


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_what_is_no_duration_is_refused(seconds: float) -> None:
    taught = fit()
    with pytest.raises(ValueError, match="duration"):
        taught.observe((1.0, 10.0, 0.0), seconds)
    assert taught.coefficients == PRIOR


def test_features_and_priors_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="features"):
        fit().observe((1.0, -5.0, 0.0), 1.0)
    with pytest.raises(ValueError, match="prior"):
        fit((0.0, 1.0))


entries = st.floats(-3, 3)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    root=st.lists(st.lists(entries, min_size=3, max_size=3), min_size=3, max_size=3),
    target=st.tuples(*[entries] * 3),
)
def test_the_non_negative_solution_satisfies_the_optimality_conditions(
    root: list[list[float]], target: tuple[float, float, float]
) -> None:
    matrix = [[sum(row[i] * row[j] for row in root) + 0.1 * (i == j) for j in range(3)] for i in range(3)]
    free = solve_positive_definite(matrix, list(target))
    for i in range(3):
        assert sum(matrix[i][j] * free[j] for j in range(3)) == pytest.approx(target[i], abs=1e-6)

    solution = solve_non_negative(matrix, list(target))
    for i in range(3):
        slope = sum(matrix[i][j] * solution[j] for j in range(3)) - target[i]
        assert solution[i] >= 0.0
        assert slope >= -1e-6
        assert solution[i] * slope == pytest.approx(0.0, abs=1e-5)

"""A fit finds the coefficients that made the times, is not led astray by a stall, and never goes below 0."""

import random

import pytest

from baton.proxy.calibration.fit import Sample, fit_linear

TRUTH = (0.01, 6e-5, 2e-9)


def samples(noise: float = 0.0) -> list[Sample]:
    lot = random.Random(4)
    found = []
    for tokens in (16, 100, 500, 2000, 8000, 30_000):
        features = (1.0, float(tokens), tokens**2 / 2)
        exact = sum(c * f for c, f in zip(TRUTH, features, strict=True))
        found += [
            Sample(features=features, seconds=exact * (1 + noise * lot.uniform(-1, 1))) for _ in range(5)
        ]
    return found


def test_exact_times_give_the_coefficients_back() -> None:
    assert fit_linear(samples()).coefficients == pytest.approx(TRUTH, rel=1e-3)


def test_noise_moves_them_little_and_a_stall_less() -> None:
    noisy = samples(0.1)
    stalled = [*noisy, *[Sample(features=(1.0, 4000.0, 8e6), seconds=60.0)]]

    assert fit_linear(noisy).coefficients == pytest.approx(TRUTH, rel=0.15)
    assert fit_linear(stalled).coefficients == pytest.approx(TRUTH, rel=0.2)


def test_times_that_shrink_with_size_cost_nothing_a_unit_not_less() -> None:
    shrinking = [Sample(features=(1.0, float(size)), seconds=1.0 - size / 100) for size in range(10)]

    base_s, unit_s = fit_linear(shrinking).coefficients
    assert unit_s == 0.0
    assert base_s == pytest.approx(0.95, rel=0.05)


def test_errors_are_of_the_median_of_each_kind() -> None:
    fit = fit_linear([Sample(features=(1.0,), seconds=seconds) for seconds in (1.0, 2.0, 90.0)])

    assert [sample.seconds for sample in fit.samples] == [2.0]
    assert fit.errors() == pytest.approx([0.0], abs=1e-6)

"""The drain rate follows what came free of late, and says when to come back."""

import pytest

from baton.proxy.routing.drain_rate import DrainRate


def test_a_steady_flow_is_measured_from_the_start() -> None:
    rate = DrainRate(now=0.0)
    for second in range(1, 11):
        rate.released(500, now=float(second))

    assert rate.tokens_per_s(now=10.0) == pytest.approx(500, rel=0.1)


def test_the_rate_fades_when_nothing_comes_free() -> None:
    rate = DrainRate(now=0.0)
    rate.released(50_000, now=10.0)

    assert rate.tokens_per_s(now=200.0) < rate.tokens_per_s(now=20.0) / 10


def test_a_refused_client_comes_back_when_what_is_ahead_is_done() -> None:
    rate = DrainRate(now=0.0)
    for second in range(1, 201):
        rate.released(1000, now=float(second))

    assert 8 <= rate.retry_after_s(8000, now=200.0, longest_s=60) <= 9
    assert rate.retry_after_s(10, now=200.0, longest_s=60) == 1
    assert rate.retry_after_s(10**9, now=200.0, longest_s=60) == 60


def test_with_nothing_known_it_is_the_longest() -> None:
    assert DrainRate(now=5.0).retry_after_s(100, now=5.0, longest_s=30) == 30

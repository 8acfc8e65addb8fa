"""A worker's chunks are forgotten in order of their last use."""

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.proxy.routing.cached_keys import CachedKeys


def test_what_was_last_used_before_a_time_is_returned_and_forgotten() -> None:
    keys = CachedKeys()
    keys.used([1, 2], now=0.0)
    keys.used([1, 3], now=10.0)

    assert keys.expire(before=5.0) == [2]
    assert 2 not in keys
    assert 1 in keys
    assert keys.expire(before=5.0) == []
    assert sorted(keys.expire(before=11.0)) == [1, 3]
    assert len(keys) == 0


def test_many_periods_are_kept_as_few_vintages() -> None:
    keys = CachedKeys()
    for number in range(10_000):
        keys.used([number], now=float(number))

    assert len(keys._vintages) <= 32
    assert len(keys) == 10_000
    gone = keys.expire(before=5000.0)
    assert 4000 < len(gone) <= 5000
    assert set(gone) == set(range(len(gone)))


def test_the_oldest_go_when_there_are_too_many() -> None:
    keys = CachedKeys()
    for number in range(100):
        keys.used([number], now=float(number))
    keys.shrink(20)

    assert len(keys) <= 20
    assert 99 in keys


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0.0, 3.0)), max_size=150), st.floats(0.0, 300.0))
def test_nothing_used_since_is_ever_expired(uses: list[tuple[int, float]], before: float) -> None:
    keys, last, now = CachedKeys(), dict[int, float](), 0.0
    for key, pause in uses:
        now += pause
        keys.used([key], now)
        last[key] = now

    gone = keys.expire(before)
    assert all(last[key] < before for key in gone)
    assert len(keys) + len(gone) == len(last)
    assert len(gone) == len(set(gone))

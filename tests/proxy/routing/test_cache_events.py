"""What workers report of their caches makes the index promise what is there, and no less."""

from collections import deque
from dataclasses import dataclass
from functools import cache

import pytest

from baton.proxy.routing.cache_events import CacheEvents, CacheReport, Cleared, Removed, Stored
from baton.proxy.routing.prefix_index import PrefixIndex, prefix_keys

from .lru_worker import LruWorker, conversations, drained

CHUNK = 512
W = "worker"


def index() -> PrefixIndex:
    return PrefixIndex(max_bytes=1 << 26, max_age_s=600.0, now=0.0)


def promised(known: PrefixIndex, keys: list[int], now: float = 0.0) -> int:
    return known.lookup(keys, now).chunks(W)


def test_when_blocks_go_what_was_used_before_they_came_is_gone() -> None:
    known = index()
    events = CacheEvents(known)
    events.follow(W)
    for keys, now in (([1, 2], 0.0), ([1, 3], 10.0)):
        known.insert(W, keys, now)
        events.used(W, keys, now)
    events.report(W, CacheReport(ts=5.0, changes=[Stored([70])]), now=5.0)

    events.report(W, CacheReport(ts=11.0, changes=[Removed([70])]), now=11.0)

    assert promised(known, [1, 2]) == 1
    assert promised(known, [1, 3]) == 2
    assert events.counts.corrected_chunks == 1


def test_blocks_of_unknown_age_tell_nothing() -> None:
    known = index()
    events = CacheEvents(known)
    events.follow(W)
    known.insert(W, [1, 2], now=0.0)
    events.used(W, [1, 2], now=0.0)

    events.report(W, CacheReport(ts=11.0, changes=[Removed([70, 71])]), now=11.0)

    assert promised(known, [1, 2]) == 2


def test_a_use_that_ends_late_counts_when_it_ends() -> None:
    known = index()
    events = CacheEvents(known)
    events.follow(W)
    known.insert(W, [1, 2], now=0.0)
    events.used(W, [1, 2], now=0.0)
    events.report(W, CacheReport(ts=5.0, changes=[Stored([70])]), now=5.0)
    events.report(W, CacheReport(ts=6.0, changes=[Removed([70])]), now=6.0)
    assert promised(known, [1, 2]) == 0

    events.used(W, [1, 2], now=7.0)

    assert promised(known, [1, 2]) == 2


@pytest.mark.parametrize("how", ["cleared", "lost", "forget"])
def test_nothing_is_believed_of_a_worker_whose_cache_may_be_empty(how: str) -> None:
    known = index()
    events = CacheEvents(known)
    events.follow(W)
    for worker in (W, "other"):
        known.insert(worker, [1, 2], now=0.0)
        events.used(worker, [1, 2], now=0.0)

    if how == "cleared":
        events.report(W, CacheReport(ts=1.0, changes=[Cleared()]), now=1.0)
    elif how == "lost":
        events.lost(W)
    else:
        events.forget(W)

    assert known.lookup([1, 2], now=1.0).by_worker() == {"other": 2}
    known.insert(W, [1, 2], now=2.0)
    events.used(W, [1, 2], now=2.0)
    assert promised(known, [1, 2]) == 2


def test_a_delayed_report_keeps_its_place_in_time_whatever_the_worker_s_clock_says() -> None:
    known = index()
    events = CacheEvents(known)
    events.follow(W)
    events.report(W, CacheReport(ts=1_000_000.0, changes=[Stored([70])]), now=1.0)
    known.insert(W, [1], now=5.0)
    events.used(W, [1], now=5.0)

    # Stored before the use, reported long after it.
    events.report(W, CacheReport(ts=1_000_002.0, changes=[Stored([71])]), now=9.0)
    events.report(W, CacheReport(ts=1_000_009.0, changes=[Removed([70, 71])]), now=10.0)

    assert promised(known, [1]) == 1


def test_workers_that_are_not_followed_cost_and_change_nothing() -> None:
    known = index()
    events = CacheEvents(known)
    known.insert(W, [1], now=0.0)
    events.used(W, [1], now=0.0)
    events.report(W, CacheReport(ts=1.0, changes=[Cleared()]), now=1.0)

    assert promised(known, [1]) == 1


@dataclass
class Tally:
    """How far promises were off, in bytes, over all prompts."""

    there: int = 0
    too_much: int = 0
    too_little: int = 0


@cache
def replay(*, with_events: bool, seed: int, running: int = 6, delay_s: float = 0.0) -> Tally:
    """Serve conversations on a worker whose cache holds a part of them; compare promise and truth."""
    worker, known = LruWorker(blocks=1200, clock_ahead_s=1e9), index()
    events = CacheEvents(known)
    if with_events:
        events.follow(W)
    tally = Tally()
    open_: deque[tuple[bytes, list[int]]] = deque()
    late: deque[tuple[float, CacheReport]] = deque()
    for number, prompt in enumerate(conversations(seed, turns=1500, sessions=60, leave=0.08)):
        now = number * 0.1
        keys = prefix_keys(prompt, CHUNK, 0)
        hit, truth = promised(known, keys, now) * CHUNK, worker.cached_bytes(prompt) // CHUNK * CHUNK
        tally.there += truth
        tally.too_much += max(hit - truth, 0)
        tally.too_little += max(truth - hit, 0)
        known.insert(W, keys, now)
        events.used(W, keys, now)
        worker.take(prompt, now)
        open_.append((prompt, keys))
        if len(open_) > running:
            ended, its_keys = open_.popleft()
            worker.finish(ended)
            events.used(W, its_keys, now)
        late += ((now + delay_s, report) for report in drained(worker))
        while late and late[0][0] <= now:
            events.report(W, late.popleft()[1], now)
    return tally


@pytest.mark.parametrize("delay_s", [0.0, 2.0])
def test_with_reports_the_index_promises_far_less_that_is_not_there_and_hides_little_that_is(
    delay_s: float,
) -> None:
    blind = replay(with_events=False, seed=1)
    told = replay(with_events=True, seed=1, delay_s=delay_s)

    assert blind.there == told.there
    assert blind.too_much > 0.3 * blind.there
    assert told.too_much < 0.35 * blind.too_much
    assert told.too_little < 0.02 * told.there

"""Corrects the prefix index by what workers report of their caches.

The index knows chunks of bytes, reports name blocks of tokens, and the proxy tokenises nothing, so a report
cannot be looked up in the index. What connects them is time:

    stored, removed    when blocks that were stored at t leave, all that was last used before t is gone
                       (`eviction_horizon.py`): the index forgets its older beliefs of that worker
    cleared            the index forgets the worker
    messages missing   the same: the cache may have been cleared meanwhile

Limits. The cache must evict the least recently used first; blocks of other media and of sliding windows are
left out. The last use that counts is when a request ended, which is why `used` is told then, too. A chunk
whose request runs for longer than the whole cache turns over is forgotten early, and learned again at its
end. A horizon lags where only blocks are evicted that were used again after they were stored: then less is
corrected, never too much. Prompts that reach a worker past this proxy are not learned from its reports.

Times of stores are the worker's own, shifted by the smallest difference to this clock that was seen: a report
that was delayed, or replayed, keeps its place. No clock, no I/O; called by the shell that reads the reports
(`proxy/kv_event_source.py`) and by whoever hears of dispatches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from .cached_keys import CachedKeys
from .eviction_horizon import EvictionHorizon
from .prefix_index import PrefixIndex

MARGIN_S = 0.25
"""Reports are stamped when a step is over: a use in that step may look earlier than its stores."""
_MOST_KEYS = 1_000_000
_CLOCK_DRIFT = 1e-3
"""Seconds a second by which clocks may drift apart; a clock that was set back is caught up with as slowly."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks entered the cache."""

    hashes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks left it."""

    hashes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Cleared:
    """Nothing is left in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What one step of the engine did to its cache."""

    ts: float
    """Seconds on the worker's clock."""
    changes: Sequence[Stored | Removed | Cleared]


@dataclass(slots=True)
class _Followed:
    """One worker that reports."""

    keys: CachedKeys = field(default_factory=CachedKeys)
    horizon: EvictionHorizon = field(default_factory=EvictionHorizon)
    ahead_s: float = inf
    """How far this clock is ahead of the worker's: the least that was seen."""
    reported_at: float = 0.0

    def local_time(self, ts: float, now: float) -> float:
        """Return when it was `ts` on the worker's clock; never after `now`."""
        drift_s = _CLOCK_DRIFT * (now - self.reported_at)
        self.ahead_s = min(self.ahead_s + drift_s, now - ts)
        self.reported_at = now
        return ts + self.ahead_s


@dataclass(slots=True)
class CacheEventCounts:
    """What happened since the start."""

    reports: int = 0
    corrected_chunks: int = 0
    """Beliefs that were taken back because of evictions."""
    cleared: int = 0
    lost: int = 0
    """Times that reports were missing for good."""


class CacheEvents:
    """The workers that report, and the index that learns from it."""

    def __init__(self, index: PrefixIndex, *, most_keys: int = _MOST_KEYS) -> None:
        """`most_keys` bounds what is remembered of all workers, about 100 bytes each."""
        self._index = index
        self._most_keys = most_keys
        self._followed: dict[str, _Followed] = {}
        self.counts = CacheEventCounts()

    def follow(self, worker: str) -> None:
        """Reports of `worker` are being read."""
        self._followed.setdefault(worker, _Followed())

    def unfollow(self, worker: str) -> None:
        """They are not any more; what the index believes ages by itself."""
        self._followed.pop(worker, None)

    def used(self, worker: str, keys: Sequence[int], now: float) -> None:
        """`worker` is sent a prompt, or is done with one: called at both ends, after the index was told."""
        followed = self._followed.get(worker)
        if followed is None or not keys:
            return
        if keys[-1] not in followed.keys:  # its last chunk is the first of a prompt to be taken back
            self._index.insert(worker, keys, now)
        followed.keys.used(keys, now)
        followed.keys.shrink(max(self._most_keys // len(self._followed), len(keys)))

    def report(self, worker: str, report: CacheReport, now: float) -> None:
        """Learn from what `worker` reports."""
        followed = self._followed.get(worker)
        if followed is None:
            return
        self.counts.reports += 1
        at = followed.local_time(report.ts, now)
        before = followed.horizon.at
        for change in report.changes:
            match change:
                case Stored(hashes):
                    followed.horizon.stored(hashes, at)
                case Removed(hashes):
                    followed.horizon.removed(hashes)
                case Cleared():
                    self.counts.cleared += 1
                    self.forget(worker)
                    followed = self._followed[worker]
        if followed.horizon.at > before:
            gone = followed.keys.expire(followed.horizon.at - MARGIN_S)
            self._index.retract(worker, gone, kept_chunks=0)
            self.counts.corrected_chunks += len(gone)

    def lost(self, worker: str) -> None:
        """Reports of `worker` are missing."""
        self.counts.lost += 1
        self.forget(worker)

    def forget(self, worker: str) -> None:
        """Nothing that was known of `worker` holds any more: its cache was cleared, or it was restarted."""
        self._index.clear_worker(worker)
        if worker in self._followed:
            self._followed[worker] = _Followed()

"""Which prompt chunks one worker was sent, by when it last used them, so that the oldest can be taken back.

Uses are grouped into vintages, a set of keys each: noting a use is two operations on sets, whatever the
prompt's length, and a whole vintage goes at once. The period of a vintage doubles when there are too many.
No clock.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

_FIRST_PERIOD_S = 0.5
_MOST_VINTAGES = 32


@dataclass(slots=True)
class _Vintage:
    """The keys used in one period."""

    number: int
    began_at: float
    used_at: float
    """Last use of any."""
    keys: set[int] = field(default_factory=set)


class CachedKeys:
    """The chunks of one worker."""

    def __init__(self) -> None:
        self._period_s = _FIRST_PERIOD_S
        self._vintages: deque[_Vintage] = deque()
        self._latest: dict[int, int] = {}
        """Key to the newest vintage that has it."""
        self._count = 0

    def __len__(self) -> int:
        """Chunks that are remembered."""
        return len(self._latest)

    def __contains__(self, key: int) -> bool:
        return key in self._latest

    def used(self, keys: Sequence[int], now: float) -> None:
        """The worker uses, or has just used, the chunks of one prompt."""
        vintage = self._vintages[-1] if self._vintages else None
        if vintage is None or now >= vintage.began_at + self._period_s:
            vintage = self._begin(now)
        vintage.used_at = max(vintage.used_at, now)
        vintage.keys.update(keys)
        self._latest.update(dict.fromkeys(keys, vintage.number))

    def expire(self, before: float) -> list[int]:
        """Forget and return the chunks whose last use was earlier than `before`, by whole vintages."""
        gone: list[int] = []
        while self._vintages and self._vintages[0].used_at < before:
            gone += self._drop_oldest()
        return gone

    def shrink(self, most: int) -> None:
        """Forget the oldest, until no more than `most` are left."""
        while len(self._latest) > most:
            self._drop_oldest()

    def _begin(self, now: float) -> _Vintage:
        if len(self._vintages) >= _MOST_VINTAGES:
            self._period_s *= 2
            self._merge_pairs()
        self._count += 1
        vintage = _Vintage(self._count, now, now)
        self._vintages.append(vintage)
        return vintage

    def _merge_pairs(self) -> None:
        old, self._vintages = self._vintages, deque()
        while len(old) > 1:
            first, second = old.popleft(), old.popleft()
            second.keys |= first.keys
            second.began_at = first.began_at
            self._vintages.append(second)
        self._vintages += old

    def _drop_oldest(self) -> list[int]:
        vintage = self._vintages.popleft()
        latest = self._latest
        # Of merged vintages the later number stands for both.
        gone = [key for key in vintage.keys if latest[key] <= vintage.number]
        for key in gone:
            del latest[key]
        return gone

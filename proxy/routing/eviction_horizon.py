"""How far back a worker's cache still reaches, read from the blocks it evicts.

A cache that evicts the least recently used block first never drops one block while it keeps another that was
used earlier and is not in use. A block was used no earlier than it was stored. So once a block that was
stored at time t is removed, whatever was last used before t is gone too: t is a horizon, and only advances.

The blocks' store times are remembered for a sample of them, chosen by hash, so that memory is bounded; few
are enough, since any block that was never used again after it was stored gives an exact horizon. No clock.
"""

from collections.abc import Iterable
from math import inf

_MOST_TRACKED = 1024


class EvictionHorizon:
    """One worker's horizon."""

    def __init__(self, most_tracked: int = _MOST_TRACKED) -> None:
        self._most_tracked = most_tracked
        self._mask = 0
        self._stored_at: dict[int, float] = {}
        self.at = -inf
        """What was last used before this time is gone."""

    def stored(self, hashes: Iterable[int], now: float) -> None:
        """Blocks entered the cache at `now`."""
        mask, stored_at = self._mask, self._stored_at
        for block in hashes:
            if not block & mask:
                stored_at[block] = now
        while len(self._stored_at) > self._most_tracked:
            self._mask = 2 * self._mask + 1
            self._stored_at = {b: at for b, at in self._stored_at.items() if not b & self._mask}

    def removed(self, hashes: Iterable[int]) -> None:
        """Blocks left the cache."""
        for block in hashes:
            stored_at = self._stored_at.pop(block, None)
            if stored_at is not None and stored_at > self.at:
                self.at = stored_at

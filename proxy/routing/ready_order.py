"""The workers of a pool in the order in which they are ready for more, kept sorted as their load changes."""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from heapq import nsmallest


class ReadyOrder:
    """Places of a pool by a value that is less for workers ready sooner."""

    __slots__ = ("__weakref__", "_entries", "_places", "_values")

    def __init__(self, rows: Sequence[int], column: Sequence[float]) -> None:
        """Sort the pool whose workers have these `rows` in the load's `column`."""
        self._places: Mapping[int, int] = {row: place for place, row in enumerate(rows)}
        self._values = [column[row] for row in rows]
        self._entries = sorted((value, place) for place, value in enumerate(self._values))

    def moved(self, row: int, value: float) -> None:
        """The value of a worker changed; of one that is not in the pool, nothing happens."""
        place = self._places.get(row)
        if place is None or (old := self._values[place]) == value:
            return
        del self._entries[bisect_left(self._entries, (old, place))]
        insort(self._entries, (value, place))
        self._values[place] = value

    def first(self, count: int) -> list[int]:
        """Return the places of the `count` that are ready soonest."""
        return [place for _, place in self._entries[:count]]

    def least(self, count: int, places: Sequence[int]) -> list[int]:
        """Return the `count` of `places` that are ready soonest."""
        return nsmallest(count, places, key=self._values.__getitem__)

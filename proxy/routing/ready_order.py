"""The workers of a pool in the order in which they are ready for more, kept sorted as their load changes."""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence


class ReadyOrder:
    """Places of a pool by a value that is less for workers ready sooner."""

    __slots__ = ("__weakref__", "_entries", "_places", "_values")

    def __init__(self, rows: Sequence[int], column: Sequence[float]) -> None:
        """Sort the pool whose workers have these `rows` in the load's `column`."""
        self._places: Mapping[int, int] = {row: place for place, row in enumerate(rows)}
        self._values = {row: column[row] for row in rows}
        self._entries = sorted((column[row], place) for row, place in self._places.items())

    def moved(self, row: int, value: float) -> None:
        """The value of a worker changed; of one that is not in the pool, nothing happens."""
        old = self._values.get(row)
        if old is None or old == value:
            return
        place = self._places[row]
        del self._entries[bisect_left(self._entries, (old, place))]
        insort(self._entries, (value, place))
        self._values[row] = value

    def first(self, count: int) -> list[int]:
        """Return the places of the `count` that are ready soonest."""
        return [place for _, place in self._entries[:count]]

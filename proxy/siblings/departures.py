"""Siblings that are not heard any more: dead, or only cut off and back in a moment. No I/O and no clock.

What would end a sibling's requests is held back until it is clear which. Its `run` tells: a process that
says it again lives, and has its requests still; another run at its place is its successor.
"""

from dataclasses import dataclass

from ..routing.commands import Abort

BACK_WITHIN_S = 1.0
"""A live process connects again within `RETRY_S`, once its loop comes to it."""


@dataclass(frozen=True, slots=True)
class _Departure:
    run: str
    aborts: list[Abort]
    due: float


class Departures:
    """Those of one process's siblings."""

    def __init__(self) -> None:
        self._by_index: dict[int, _Departure] = {}

    def __len__(self) -> int:
        """Siblings that may be back."""
        return len(self._by_index)

    def left(self, index: int, run: str, aborts: list[Abort], now: float) -> None:
        """A connection ended; `aborts` would end what was in flight on it."""
        self._by_index[index] = _Departure(run, aborts, now + BACK_WITHIN_S)

    def heard(self, index: int, run: str) -> list[Abort]:
        """A sibling is heard: return what ends its predecessor's requests; nothing if it is the same run."""
        departure = self._by_index.pop(index, None)
        return [] if departure is None or departure.run == run else departure.aborts

    def overdue(self, now: float) -> list[Abort]:
        """Return what ends the requests of those that are not back in time."""
        gone = [index for index, each in self._by_index.items() if each.due <= now]
        return [abort for index in gone for abort in self._by_index.pop(index).aborts]

"""What all sources together say, and what changed since. No I/O.

A worker is known by its title. Where two sources list the same title, the first to do so has the say until it
drops it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..config import WorkerAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to do to the fleet, in this order."""

    removed: tuple[WorkerAddress, ...] = ()
    """To be drained."""
    changed: tuple[WorkerAddress, ...] = ()
    """Listed under the same title with another address, role or kind: another worker."""
    added: tuple[WorkerAddress, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.changed or self.added)


class Roster:
    """The workers that are wanted."""

    def __init__(self, workers: Iterable[WorkerAddress] = ()) -> None:
        """Begin with `workers`, which no source can take away."""
        self._lists: dict[str, dict[str, WorkerAddress]] = {"": {each.title: each for each in workers}}
        self._wanted = dict(self._lists[""])

    @property
    def workers(self) -> tuple[WorkerAddress, ...]:
        """All of them, by title."""
        return tuple(self._wanted[title] for title in sorted(self._wanted))

    def update(self, source: str, workers: Iterable[WorkerAddress]) -> Changes:
        """Take the full list of one source; return what changed for the fleet."""
        self._lists[source] = {each.title: each for each in workers}
        before, self._wanted = self._wanted, self._merged()
        now = self._wanted
        return Changes(
            removed=tuple(before[title] for title in sorted(before.keys() - now.keys())),
            changed=tuple(now[t] for t in sorted(before.keys() & now.keys()) if now[t] != before[t]),
            added=tuple(now[title] for title in sorted(now.keys() - before.keys())),
        )

    def _merged(self) -> dict[str, WorkerAddress]:
        merged: dict[str, WorkerAddress] = {}
        for listed in self._lists.values():
            merged = listed | merged
        return merged

"""One coarse timer for everything that has a deadline: a sweep every so often instead of a timer each.

A request that meets its deadlines costs an addition and a removal here, whatever its phases.
"""

import asyncio
from typing import Final, Protocol

NEVER: Final = float("inf")


class Watched(Protocol):
    """Something that may run late."""

    due: float
    """Time on the loop's clock, `NEVER` while it waits for nothing."""

    def overdue(self, now: float) -> None:
        """`due` has passed: fail, or set a new one."""
        ...


class Watch:
    """Sweeps its members while it has any. Deadlines are met up to one sweep late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sweep_s: float) -> None:
        self._loop = loop
        self._sweep_s = sweep_s
        self._members: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: Watched) -> None:
        """Watch `member` until it is discarded."""
        self._members.add(member)
        if self._timer is None:
            self._timer = self._loop.call_later(self._sweep_s, self._sweep)

    def discard(self, member: Watched) -> None:
        """Stop watching `member`."""
        self._members.discard(member)

    def close(self) -> None:
        """Sweep no more."""
        self._members.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        for member in self._members:
            if member.due <= now:
                # Each in a turn of its own: the fault of one is the loop's to report, and no other's loss.
                self._loop.call_soon(self._tell, member)
        again = bool(self._members)
        self._timer = self._loop.call_later(self._sweep_s, self._sweep) if again else None

    def _tell(self, member: Watched) -> None:
        now = self._loop.time()
        if member in self._members and member.due <= now:
            member.overdue(now)

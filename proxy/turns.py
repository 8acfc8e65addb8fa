"""Work that would keep the loop too long if it was done at once. No I/O."""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Work that is done piece by piece, one in each turn of the loop, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[Callable[[], None]] = deque()

    def add(self, work: Callable[[], None]) -> None:
        """Have it done in a turn of its own."""
        self._due.append(work)
        if len(self._due) == 1:
            self._loop.call_soon(self._do_next)

    def _do_next(self) -> None:
        try:
            self._due[0]()
        finally:
            self._due.popleft()
            if self._due:
                self._loop.call_soon(self._do_next)

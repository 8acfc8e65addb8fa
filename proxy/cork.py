"""Holds what is written in one turn of the event loop until its end, so that it goes out one after another.

A write to a peer that sleeps pays for waking it, on the same machine more than for the write itself. Were
each written as soon as it is known, a quick peer would sleep again before the next, and be woken for every
one. Held together, they find it awake. No more than `MOST_HELD` wait for each other, which bounds what the
first of them loses; a turn with one event loses nothing.
"""

import asyncio
from collections import deque

MOST_HELD = 32
"""Connections that may have something to write before all of it goes out."""


class Cork:
    """What waits for the end of the turn. Owned by the event loop's thread."""

    __slots__ = ("_call_soon", "_held", "_planned")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._held: deque[CorkedTransport] = deque()
        self._planned = False

    def hold(self, transport: "CorkedTransport") -> None:
        """It has something to write."""
        self._held.append(transport)
        if len(self._held) >= MOST_HELD:
            self.release()
        elif not self._planned:
            self._planned = True
            self._call_soon(self._turn_ends)

    def _turn_ends(self) -> None:
        self._planned = False
        self.release()

    def release(self) -> None:
        """Write all that waits."""
        held = self._held
        try:
            while held:
                held.popleft().flush()
        finally:
            if held:  # the fault of one is the loop's to report, and no other's loss
                self._call_soon(self.release)


class CorkedTransport:
    """A transport whose writes wait for the end of the turn; all else keeps its place among them."""

    __slots__ = ("_cork", "_pieces", "_transport")

    def __init__(self, transport: asyncio.Transport, cork: Cork) -> None:
        self._transport = transport
        self._cork = cork
        self._pieces: list[bytes | memoryview] = []

    def write(self, data: bytes | memoryview) -> None:
        """Write it when the turn ends."""
        self._pieces.append(data)
        if len(self._pieces) == 1:
            self._cork.hold(self)  # which may flush it at once

    def flush(self) -> None:
        """Write what waits, unless the connection has ended."""
        pieces = self._pieces
        if not pieces:
            return
        self._pieces = []
        if self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    def close(self) -> None:
        """Close once all is written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what waits is dropped."""
        self._pieces.clear()
        self._transport.abort()

    def write_eof(self) -> None:
        """Write no more."""
        self.flush()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Whether `write_eof` is supported."""
        return self._transport.can_write_eof()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the peer has not taken."""
        return sum(map(len, self._pieces)) + self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def fileno(self) -> int | None:
        """Return the descriptor of its socket, None if it has none."""
        below = self._transport.get_extra_info("socket")
        return None if below is None else below.fileno()

"""Lends legs the relay in C (`chunk_relay.c`), if it was compiled: whole chunks then pass by the interpreter.

A leg whose stream runs steadily hands its two sockets over, and gets them back with whatever is more than
whole chunks: the end, a cut, a client that stalls. Without the compiled relay legs relay by themselves.
"""

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from .cork import CorkedTransport

if TYPE_CHECKING:
    from .chunk_relay import ChunkRelay, Stream


class Lender(Protocol):
    """A leg that handed its stream over."""

    def taken_back(self) -> None:
        """Its stream was detached: it goes on with what that leaves."""
        ...


class NativeRelay:
    """The relay of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, relay: "ChunkRelay") -> None:
        self._loop = loop
        self._relay = relay
        self._descriptor = relay.fileno()
        loop.add_reader(self._descriptor, self._readable)

    def attach(
        self, lender: Lender, worker: CorkedTransport, client: CorkedTransport, *, keeps: bool
    ) -> "Stream | None":
        """Relay between two plain sockets; None if that cannot be, and nothing has changed."""
        source, target = worker.fileno(), client.fileno()
        if source is None or target is None:
            return None
        try:
            return self._relay.attach(source, target, keeps, lender)
        except OSError:  # no descriptors are left
            return None

    def close(self) -> None:
        """Relay no more."""
        self._loop.remove_reader(self._descriptor)
        self._relay.close()

    def _readable(self) -> None:
        if streams := self._relay.pump():
            self._hand_back(streams)

    def _hand_back(self, streams: "list[Stream]") -> None:
        try:
            while streams:
                lender = cast(Lender | None, streams.pop().owner)
                if lender is not None:
                    lender.taken_back()
        finally:
            if streams:  # the fault of one is the loop's to report, and no other's loss
                self._loop.call_soon(self._hand_back, streams)


def native_relay(loop: asyncio.AbstractEventLoop) -> NativeRelay | None:
    """Return the relay, None where it was not compiled (`make compiled`) or the loop cannot watch it."""
    try:
        from .chunk_relay import ChunkRelay  # noqa: PLC0415
    except ImportError:
        return None
    try:
        return NativeRelay(loop, ChunkRelay())
    except (NotImplementedError, OSError):
        return None

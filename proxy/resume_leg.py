"""The leg that continues a stream: another worker's answer, of which the client gets what it has not seen.

Slower than `relay_leg`, event by event; only streams whose worker died come here.
"""

from collections.abc import Callable

from .continuation import Continuation, DivergedError
from .cork import CorkedTransport
from .leg import LegOwner
from .native_relay import NativeRelay
from .relay_leg import RelayLeg
from .replay import Broken
from .routing.commands import Failure, Fault
from .upstream import Pieces, Pool
from .usage import USAGE

LAST_CHUNK = b"0\r\n\r\n"


class ResumeLeg(RelayLeg):
    """Continues an answer."""

    __slots__ = ("_bodies", "_broken", "_continuation", "diverged")

    def __init__(self, owner: LegOwner, pool: Pool, pieces: Pieces, broken: Broken) -> None:
        super().__init__(owner, pool, pieces)
        self._broken = broken
        self._events = broken.told.events
        self._bodies: list[bytes] = []
        self._continuation = Continuation(broken.told)
        self.diverged = False
        """Its answer is another one: nothing can continue the stream."""

    @property
    def mendable(self) -> bool:
        """Whether an event can follow: whole events were written, in the framing that was begun."""
        return True

    def on_body(self, body: bytes) -> None:
        """Told by the parser."""
        self._bodies.append(body)

    def relay_to(self, client: CorkedTransport, lines: bytes, native: NativeRelay | None = None) -> None:
        """Write what follows what was told; the head was sent long ago."""
        assert self.head is not None
        self._pieces = ()
        self._usage_read, self._waiting = self._waiting, b""
        self._sink = sink = client.write
        if not (self._broken.chunked and self._broken.stays):
            self.head.keep_alive = False  # the client was told that the connection ends with the answer
        self._go_on(sink)

    def data_received(self, data: bytes) -> None:
        """Continue, or wait until that may begin."""
        sink = self._sink
        if sink is None:
            self._before_relay(data)
            return
        if not self.feed(data):
            return
        if data.find(USAGE) >= 0:
            self._usage_read = data
        self._go_on(sink)

    def closed_by_worker(self, detail: str) -> None:
        """The end, if the last event was there."""
        self._complete = True
        if self._sink is None:
            self._decide()
        else:
            self._go_on(self._sink)

    def _go_on(self, sink: Callable[[bytes], None]) -> None:
        body = b"".join(self._bodies)
        self._bodies.clear()
        try:
            events = self._continuation.feed(body)
        except DivergedError as error:
            self.diverged = True
            self.fail(Failure(Fault.ERROR, f"it could not be continued elsewhere: {error}"))
            return
        chunked = self._broken.chunked
        if events:
            self._events += events.count(b"\n\n")
            sink(b"%x\r\n%b\r\n" % (len(events), events) if chunked else events)
        if not self._complete:
            return
        if not self._continuation.done:
            self.fail(Failure(Fault.LOST, "the answer ended without its last event"))
            return
        if chunked:
            sink(LAST_CHUNK)
        self._end()

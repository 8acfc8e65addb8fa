"""The leg whose answer the client gets, as it comes.

Its first bytes are kept until it is known that they may be shown; then every read is handed on as it is, and
costs a parser step, a look at its last bytes and a write. Once a stream runs steadily its whole chunks may go
by `native_relay`, and cost not even that.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import httptools
import msgspec

from .answer import AnswerHead
from .cork import CorkedTransport
from .gate import EVENT_END, ChunkGate
from .leg import Leg, LegOwner, fault_of
from .native_relay import NativeRelay
from .routing.commands import Failure, Fault
from .upstream import Pieces, Pool
from .usage import USAGE, usage_at_end
from .worker_words import NO_USAGE, Usage

if TYPE_CHECKING:
    from .chunk_relay import Stream

HELD_ANSWER_BYTES = 256 * 1024
"""An unstreamed answer up to this size is held until it is whole: its loss can be made good elsewhere."""
FINAL_EVENT = b"[DONE]\n\n"
FIRST_READS = 1
"""Reads that are relayed here before a stream is lent: short answers are over by then."""
MOST_READS = 1024
"""The same for a stream that has come back each time, soon after it was lent."""
SOON_EVENTS = 32
"""A stream that comes back before it had so many events while it was lent has cost more than it saved."""


class RelayLeg(Leg):
    """Relays an answer."""

    __slots__ = (
        "_body_expected", "_client", "_events", "_gate", "_kept", "_lent", "_native", "_reads_needed",
        "_reads_to_go", "_sink", "_tail", "_usage", "_usage_read", "_waiting",
    )  # fmt: skip

    def __init__(self, owner: LegOwner, pool: Pool, pieces: Pieces, *, body_expected: bool = True) -> None:
        """`body_expected` is False for the answer to a HEAD request."""
        super().__init__(owner, pool, pieces)
        self._sink: Callable[[bytes], None] | None = None
        self._gate: ChunkGate | None = None
        self._waiting = b""
        self._tail = b""
        self._body_expected = body_expected
        self._usage_read = b""
        self._usage: tuple[Usage, msgspec.Raw | None] | None = None
        self._kept: list[bytes | Stream] | None = None
        self._events = 0
        self._client: CorkedTransport | None = None
        self._native: NativeRelay | None = None
        self._lent: Stream | None = None
        self._reads_needed = FIRST_READS
        self._reads_to_go = 0

    @property
    def received(self) -> int:
        """Bytes of the answer so far."""
        return self._received if self._lent is None else self._received + self._lent.received

    @property
    def events(self) -> int:
        """Server-sent events that were relayed."""
        return self._events if self._lent is None else self._events + self._lent.events

    @property
    def keeps(self) -> bool:
        """Whether what is relayed after the head is kept."""
        return self._kept is not None

    def keep(self) -> None:
        """Keep what is relayed from now on."""
        self._kept = []

    def forget(self) -> None:
        """Keep no more."""
        self._kept = None
        if self._lent is not None:
            self._lent.forget()

    @property
    def relaying(self) -> bool:
        """Whether the client has seen some of the answer."""
        return self._sink is not None

    @property
    def mendable(self) -> bool:
        """Whether an event can still follow what the client has seen, within the answer's framing."""
        head = self.head
        if head is None or not head.event_stream:
            return False
        return self._gate.mendable if self._gate is not None else head.ends_by_close

    def usage(self) -> tuple[Usage, msgspec.Raw | None]:
        """Return what the answer says of itself, as far as it is here."""
        if self._usage is not None:
            return self._usage
        found: tuple[Usage, msgspec.Raw | None] = (NO_USAGE, None)
        if self.head is not None:
            last = self._waiting or self._usage_read
            found = usage_at_end(last, event_stream=self.head.event_stream)
        if self._complete:
            self._usage = found
        return found

    def answer_bytes(self, lines: bytes) -> bytes:
        """Return the whole answer as it came, with header lines added."""
        assert self.head is not None
        return self.head.with_lines(lines) + self._waiting

    def relayed(self) -> bytes:
        """Return what was kept, as far as the client got it."""
        pieces = self._kept or ()
        kept = b"".join(each if isinstance(each, bytes) else each.kept() for each in pieces)
        held = 0 if self._gate is None else len(self._gate.held)
        return kept[: len(kept) - held]

    def relay_to(self, client: CorkedTransport, lines: bytes, native: NativeRelay | None = None) -> None:
        """Write the head, with header lines added, and everything after it; `native` may help."""
        assert self.head is not None
        sink = client.write
        self._pieces = ()  # what was shown cannot be asked for again
        head = self.head.with_lines(lines)
        waiting, self._waiting = self._waiting, b""
        self._events = waiting.count(b"\n\n")
        self._usage_read = waiting
        if self._kept is not None:
            self._kept.append(waiting)
        if not self._complete and self.head.event_stream and self.head.chunked:
            self._gate = ChunkGate()
            if native is not None:
                self._client, self._native, self._reads_to_go = client, native, self._reads_needed
            if not waiting.endswith(EVENT_END):
                waiting = self._gate.feed(waiting)
        sink(head + waiting)
        self._tail = waiting[-len(FINAL_EVENT) :]
        self._sink = sink
        if self._complete:
            self._end()

    def data_received(self, data: bytes) -> None:
        """Hand on, or keep until it may be."""
        sink = self._sink
        if sink is None:
            self._before_relay(data)
            return
        self._received += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self.fail(Failure(Fault.MALFORMED, f"not an HTTP answer: {error}"))
            return
        if self.cancelled:
            self.fail(Failure(Fault.MALFORMED, "two answers to one request"))
            return
        self._take_note(data)
        gate = self._gate
        if gate is None:
            sink(data)
            self._tail = data[-len(FINAL_EVENT) :]
        elif not gate.held and data.endswith(EVENT_END):
            sink(data)
        elif passed := gate.feed(data) + (gate.flush() if self._complete else b""):
            sink(passed)
        if self._complete:
            self._end()
        elif self._reads_to_go:
            self._reads_to_go -= 1
            if not self._reads_to_go:
                self._lend()

    def _take_note(self, data: bytes) -> None:
        if (kept := self._kept) is not None:
            kept.append(data)
        self._events += data.count(b"\n\n")
        if data.find(USAGE) >= 0:
            self._usage_read = data

    def closed_by_worker(self, detail: str) -> None:
        """The end, unless it is an event stream that lacks its last event."""
        assert self.head is not None
        last = self._tail if self.relaying else self._waiting
        if self.head.event_stream and not last.endswith(FINAL_EVENT):
            self.fail(Failure(Fault.LOST, detail))
        elif not self.relaying:
            self._complete = True
            self._decide()
        else:
            self._end()

    def cancel(self) -> None:
        """Drop the leg: nothing more is written for it."""
        self._take_back()
        self._reads_to_go = 0
        super().cancel()

    def pause(self) -> None:
        """Read no more for now."""
        self._take_back()
        super().pause()

    def resume(self) -> None:
        """Read again."""
        if self._lent is None:
            super().resume()

    def fail(self, failure: Failure) -> None:
        """Give up and tell the owner: how depends on what the client has seen."""
        self.cancel()
        if self.relaying:
            self.owner.leg_broken(failure)
        else:
            self.owner.leg_failed(failure)

    # --- lent

    def _lend(self) -> None:
        """Have whole chunks relayed without the leg, if both sides are at a chunk's end."""
        gate, client, native, connection = self._gate, self._client, self._native, self._connection
        if gate is None or client is None or native is None or connection is None or not gate.mendable:
            return
        client.flush()
        if gate.held or client.get_write_buffer_size() or client.is_closing():
            self._reads_to_go = 1
            return
        self._lent = native.attach(self, connection.transport, client, keeps=self._kept is not None)
        if self._lent is not None:
            connection.transport.pause_reading()

    def _take_back(self) -> "Stream | None":
        """Return the stream that was lent, if any; what it relayed counts as if it had gone by here."""
        lent, self._lent = self._lent, None
        if lent is None:
            return None
        lent.detach()
        self._received += lent.received
        self._events += lent.events
        self._usage_read = lent.usage or self._usage_read
        if self._kept is not None:
            self._kept.append(lent)
        soon = lent.events < SOON_EVENTS
        self._reads_needed = min(self._reads_needed * 2, MOST_READS) if soon else FIRST_READS
        self._reads_to_go = self._reads_needed
        return lent

    def taken_back(self) -> None:
        """Go on where the native relay stopped."""
        lent, connection = self._take_back(), self._connection
        if lent is None or connection is None or self._sink is None:
            return
        connection.transport.resume_reading()
        if lent.rest is None:
            self.fail(Failure(Fault.LOST, "out of memory"))
        elif lent.rest_is_whole:
            self._sink(lent.rest)
        elif lent.rest:
            self.data_received(lent.rest)

    # --- before it is shown

    def _before_relay(self, data: bytes) -> None:
        known = self.head is not None
        if not self.feed(data) or self.head is None:
            return
        if known:
            self._waiting += data
        else:
            self._waiting, self._head_bytes = self._head_bytes, b""
        if not self._body_expected:
            self.head.keep_alive = False  # the parser waits for a body that will not come
            self._complete = True
        if self._complete or self._shows_enough(self.head):
            self._decide()

    def _shows_enough(self, head: AnswerHead) -> bool:
        """Whether it may be shown before it is whole: a stream once it starts, others once they are long."""
        if fault_of(head.status) is not None:
            return len(self._waiting) > HELD_ANSWER_BYTES
        return len(self._waiting) > (0 if head.event_stream else HELD_ANSWER_BYTES)

    def _decide(self) -> None:
        assert self.head is not None
        fault = None if self.head.status == 200 else fault_of(self.head.status)
        if fault is not None:
            if self._complete:
                self.let_go()
            else:
                self.cancel()
            self.owner.leg_failed(Failure(fault, f"status {self.head.status}"))
        elif self.head.status >= 400:
            self.owner.leg_rejected()
        else:
            self.owner.leg_answered()

    def _end(self) -> None:
        self.let_go()
        self.owner.leg_ended()

"""One leg of a request on one worker: a whole request out, an answer in.

`PrefillLeg` reads the answer, `relay_leg.RelayLeg` passes it on. Both tell their owner how it went, once;
neither decides what follows.
"""

from collections.abc import Callable
from typing import Protocol

import httptools

from .answer import AnswerHead
from .routing.commands import Failure, Fault
from .upstream import Connection, Pieces, Pool

STALE_WITHIN_S = 1.0
"""A kept-alive connection that ends this soon after a request had ended already when the request was sent."""


class LegOwner(Protocol):
    """Who a leg reports to."""

    def now(self) -> float:
        """Return the time on the loop's clock."""
        ...

    def leg_answered(self) -> None:
        """Success, and the first bytes of it are here (prefill: all of them)."""
        ...

    def leg_rejected(self) -> None:
        """A final answer that finds fault with the request."""
        ...

    def leg_failed(self, failure: Failure) -> None:
        """No answer that could be shown; `answer_bytes` holds what the worker said, if it said something."""
        ...

    def leg_resent(self) -> None:
        """Its connection had ended before the request was sent: it goes out again, on a new one."""
        ...

    def leg_ended(self) -> None:
        """All of the answer has been relayed."""
        ...

    def leg_broken(self, failure: Failure) -> None:
        """The answer stopped while it was being relayed."""
        ...


def fault_of(status: int) -> Fault | None:
    """Return how an answer with `status` fails, None if it is the request's final answer."""
    if status in (429, 503):
        return Fault.BUSY
    if status >= 500 or status in (408, 409, 425) or status < 200 or 300 <= status < 400:
        return Fault.ERROR
    return None


def _deaf(data: bytes) -> None:
    """Stand in for the parser of a leg that is over."""


class Leg:
    """What both kinds share: the connection, its loss, and the head of the answer."""

    __slots__ = (
        "_complete", "_connection", "_feed", "_head_bytes", "_interim", "_parser", "_pieces", "_pool",
        "_received", "_resent", "_sent_at", "cancelled", "head", "owner",
    )  # fmt: skip

    sent_once = False
    """Its request must not go out twice: it gets a connection of its own, which cannot be stale."""

    def __init__(self, owner: LegOwner, pool: Pool, pieces: Pieces) -> None:
        """`pieces` are the whole request, head and body."""
        self.owner = owner
        self.head: AnswerHead | None = None
        self._received = 0
        self.cancelled = False
        self._pool = pool
        self._pieces = pieces
        self._connection: Connection | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._feed: Callable[[bytes], None] = self._parser.feed_data
        self._head_bytes = b""
        self._interim = False
        self._complete = False
        self._resent = False
        self._sent_at = 0.0

    @property
    def received(self) -> int:
        """Bytes of the answer so far."""
        return self._received

    @property
    def whole(self) -> bool:
        """Whether all of the answer is here."""
        return self._complete

    def start(self) -> None:
        """Send the request as soon as there is a connection."""
        self._pool.acquire(self, fresh=self.sent_once)

    def cancel(self) -> None:
        """Drop the leg: its owner hears no more of it, and the worker sees the connection end."""
        self.cancelled = True
        self._drop_parser()
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    def pause(self) -> None:
        """Read no more for now: the client does not keep up."""
        if self._connection is not None:
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._connection is not None:
            self._connection.transport.resume_reading()

    # --- told by the connection

    def connected(self, connection: Connection) -> None:
        """Send."""
        self._connection = connection
        self._sent_at = self.owner.now()
        connection.send(self._pieces)

    def unreachable(self, detail: str) -> None:
        """There is no connection to be had."""
        self.cancelled = True
        self.owner.leg_failed(Failure(Fault.UNREACHABLE, detail, after_loss=self._resent))

    def connection_lost(self, detail: str) -> None:
        """The connection ended: the end of the answer, a stale connection, or a failure."""
        connection, self._connection = self._connection, None
        if self.cancelled or self._complete:
            return
        if self._stale(connection):
            self._resent = True
            self.owner.leg_resent()
            self._pool.acquire(self, fresh=True)
        elif self.head is not None and self.head.ends_by_close:
            self.closed_by_worker(detail)
        else:
            self.fail(Failure(Fault.LOST, detail))

    def _stale(self, connection: Connection | None) -> bool:
        if connection is None or self._received or self._resent or not connection.served:
            return False
        return self.owner.now() - self._sent_at < STALE_WITHIN_S

    # --- told by the parser

    def on_headers_complete(self) -> None:
        """Read the head, unless it only announces another one."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._interim = True
            return
        if self.head is not None:
            self.cancelled = True  # a second answer to one request: found out by data_received
            return
        end = self._head_bytes.index(b"\r\n\r\n") + 4
        self.head = AnswerHead(self._head_bytes[:end], status, keep_alive=self._parser.should_keep_alive())
        self._head_bytes = self._head_bytes[end:]

    def on_message_complete(self) -> None:
        """The answer, or an interim one, is whole."""
        if self._interim:
            self._interim = False
            self._head_bytes = self._head_bytes[self._head_bytes.index(b"\r\n\r\n") + 4 :]
        else:
            self._complete = True

    # --- for the two kinds

    def feed(self, data: bytes) -> bool:
        """Parse `data`; on bytes that are no answer, fail and return False."""
        self._received += len(data)
        if self.head is None:
            self._head_bytes += data
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self.fail(Failure(Fault.MALFORMED, f"not an HTTP answer: {error}"))
            return False
        if self.cancelled:
            self.fail(Failure(Fault.MALFORMED, "two answers to one request"))
            return False
        return True

    def let_go(self) -> None:
        """The answer is whole: keep the connection if the worker does."""
        connection, self._connection = self._connection, None
        self.cancelled = True
        self._drop_parser()
        if connection is None:
            return
        if self.head is not None and self.head.keep_alive and not self.sent_once:
            connection.give_back()
        else:
            connection.drop()

    def _drop_parser(self) -> None:
        """Break the cycle of leg and parser, so that neither waits for the garbage collector."""
        self._parser = None
        self._feed = _deaf

    def fail(self, failure: Failure) -> None:
        """Give up and tell the owner."""
        self.cancel()
        self.owner.leg_failed(failure)

    def closed_by_worker(self, detail: str) -> None:
        """The worker ended a body that only the connection's end can end."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        raise NotImplementedError


class PrefillLeg(Leg):
    """Reads a whole answer."""

    __slots__ = ("_body", "_raw")

    def __init__(self, owner: LegOwner, pool: Pool, pieces: Pieces) -> None:
        super().__init__(owner, pool, pieces)
        self._body: list[bytes] = []
        self._raw: list[bytes] = []

    @property
    def body(self) -> bytes:
        """The answer's body, unframed."""
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def answer_bytes(self, lines: bytes) -> bytes:
        """Return the whole answer as it came, with header lines added."""
        assert self.head is not None
        return self.head.with_lines(lines) + b"".join(self._raw)[len(self.head.raw) :]

    def on_body(self, body: bytes) -> None:
        """Told by the parser."""
        self._body.append(body)

    def data_received(self, data: bytes) -> None:
        """Collect."""
        self._raw.append(data)
        if self.feed(data) and self._complete:
            self._answered()

    def closed_by_worker(self, detail: str) -> None:
        """A body without a length is whole when its connection ends."""
        self._complete = True
        self._answered()

    def _answered(self) -> None:
        assert self.head is not None
        self.let_go()
        status = self.head.status
        if status == 200:
            self.owner.leg_answered()
        elif (fault := fault_of(status)) is not None:
            self.owner.leg_failed(Failure(fault, f"status {status}"))
        elif status >= 400:
            self.owner.leg_rejected()
        else:
            self.owner.leg_answered()

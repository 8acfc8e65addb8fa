"""The server side of client connections: bytes to requests, one after another, and answers back.

Completions are served by workers, every other path by the admin application: `open_serving` says how.
Requests that arrive while one is being served wait their turn, and reading stops while any waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from .config import Limits, Timeouts
from .cork import Cork, CorkedTransport
from .errors import ApiError, bad_request, body_too_large, head_too_large
from .request import ClientRequest
from .watch import NEVER, Watch

LINGER_S = 2.0
"""A refused client may go on sending for so long: were it cut off at once, it might lose the answer."""


class Serving(Protocol):
    """One request being served. It calls the connection's `finished` at its end."""

    def begin(self) -> None:
        """Start; may finish before it returns."""
        ...

    def client_gone(self) -> None:
        """The client's connection ended."""
        ...

    def pause(self) -> None:
        """The client does not take what was written."""
        ...

    def resume(self) -> None:
        """It does again."""
        ...


class Clients:
    """The connections that are open."""

    def __init__(self, cork: Cork) -> None:
        self.cork = cork
        self.open: set[ClientConnection] = set()
        self._one_left = asyncio.Event()

    def left(self, client: "ClientConnection") -> None:
        """A connection ended."""
        self.open.discard(client)
        self._one_left.set()

    async def all_left(self) -> None:
        """Wait until none is open."""
        while self.open:
            self._one_left.clear()
            await self._one_left.wait()


OpenServing = Callable[["ClientConnection", ClientRequest], Serving]


class ClientConnection:
    """One client connection.

    The loop takes it for an `asyncio.Protocol`; it derives from none so that it can be compiled.
    """

    __slots__ = (
        "_body", "_body_bytes", "_clients", "_deaf", "_draining", "_head_bytes", "_limits", "_lingered",
        "_lingering", "_open_serving", "_owes_continue", "_parser", "_pumping", "_queue", "_reading",
        "_reading_body", "_serving", "_time", "_timeouts", "_watch", "due", "stalled", "transport",
    )  # fmt: skip

    transport: CorkedTransport

    def __init__(
        self,
        open_serving: OpenServing,
        clients: Clients,
        watch: Watch,
        limits: Limits,
        timeouts: Timeouts,
    ) -> None:
        self._open_serving = open_serving
        self._clients = clients
        self._watch = watch
        self._limits = limits
        self._timeouts = timeouts
        self._time = asyncio.get_running_loop().time
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[ClientRequest] = deque()
        self._serving: Serving | None = None
        self._pumping = False
        self._deaf = False  # no further request is taken
        self._draining = False
        self._lingering = False
        self._lingered = False
        self._owes_continue = False
        self.stalled = False
        """Whether the client leaves written bytes waiting."""
        self.due = NEVER
        self._head_bytes = 0
        self._expect_request()

    # --- told by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = CorkedTransport(cast(asyncio.Transport, transport), self._clients.cork)
        self._clients.open.add(self)
        self._watch.add(self)
        self.due = self._time() + self._timeouts.client_idle_s

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: whatever is served to it is dropped."""
        self._clients.left(self)
        self._watch.discard(self)
        self._queue.clear()
        self._deaf = True
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.client_gone()

    def data_received(self, data: bytes) -> None:
        """Parse, then serve what is complete."""
        if self._deaf:
            return
        if not self._reading_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._decline_upgrade()
        except httptools.HttpParserError as error:
            self._refuse(bad_request(f"not an HTTP request: {error}"))
        if not self._reading_body and self._head_bytes > self._limits.head_bytes:
            self._refuse(head_too_large(self._limits.head_bytes))
        if self._serving is None:
            self._pump()
        if self._queue:
            self.transport.pause_reading()

    def eof_received(self) -> None:
        """The client sends no more: the loop closes the connection."""

    def pause_writing(self) -> None:
        """The client is slower than the worker."""
        self.stalled = True
        if self._serving is not None:
            self._serving.pause()

    def resume_writing(self) -> None:
        """The client caught up."""
        self.stalled = False
        if self._serving is not None:
            self._serving.resume()

    def overdue(self, now: float) -> None:
        """The client has been silent, or has not taken the last of an answer, for too long."""
        if self._lingering and not self._lingered and self.transport.get_write_buffer_size():
            self._lingered = True
            self.due = now + self._timeouts.client_stall_s
        else:
            self.due = NEVER
            self.transport.abort()

    # --- told by the parser

    def on_url(self, url: bytes) -> None:
        """Part of the target."""
        self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._reading.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole: see whether the body may come."""
        request, parser, limits = self._reading, self._parser, self._limits
        self._reading_body = True
        # What was read may go beyond the head: its own length is of interest only then.
        too_long = self._head_bytes > limits.head_bytes and request.head_bytes > limits.head_bytes
        self._head_bytes = 0
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive()
        request.sort_headers()
        given = request.given
        # A connection that stays, and of which nothing was said, is one of HTTP/1.1.
        if not request.keep_alive or b"connection" in given or b"proxy-connection" in given:
            request.http_1_0 = parser.get_http_version() == "1.0"
        length = given.get(b"content-length")
        if length is not None and int(length) > limits.body_bytes:
            self._refuse(body_too_large(limits.body_bytes))
        expects = given.get(b"expect")
        if expects is not None and expects.lower() == b"100-continue":
            self._owes_continue = True
        if too_long:
            self._refuse(head_too_large(limits.head_bytes))

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        if self._deaf:
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._refuse(body_too_large(self._limits.body_bytes))

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self._deaf:
            return
        request = self._reading
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._queue.append(request)
        self._expect_request()

    # --- for what serves

    def finished(self, *, keep_alive: bool) -> None:
        """The answer is written."""
        self._serving = None
        if not keep_alive:
            self._stop()
        elif not self._pumping:
            self._pump()

    def close_when_idle(self) -> None:
        """Take no more requests: the proxy drains."""
        self._draining = True
        if self._serving is None and not self._queue:
            self._between_requests()

    # --- inside

    def _expect_request(self) -> None:
        self._reading = ClientRequest()
        self._reading_body = False
        self._owes_continue = False
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    def _pump(self) -> None:
        """Serve what waits, until something takes time."""
        self._pumping = True
        while self._serving is None and self._queue and not self.transport.is_closing():
            request = self._queue.popleft()
            self.due = NEVER
            if request.refusal is not None:
                self._answer_refusal(request.refusal)
            else:
                self._serving = self._open_serving(self, request)
                self._serving.begin()
        self._pumping = False
        if self._serving is None:
            self._between_requests()

    def _between_requests(self) -> None:
        if self._lingering or self.transport.is_closing():
            return
        begun = self._reading_body or self._head_bytes
        if self._deaf or (self._draining and not begun):
            self.transport.close()
            return
        self.transport.resume_reading()
        pause_s = self._timeouts.client_request_s if begun else self._timeouts.client_idle_s
        self.due = self._time() + pause_s
        if self._owes_continue and not self._body_bytes:
            self._owes_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, error: ApiError) -> None:
        """Answer the request being read with `error`, after those before it, and read no more."""
        if not self._deaf:
            self._deaf = True
            self._body.clear()
            self._queue.append(ClientRequest(refusal=error))

    def _decline_upgrade(self) -> None:
        """Serve the request as if it had offered no other protocol; the parser can read nothing after it."""
        if self._queue and self._queue[-1].method != b"CONNECT":
            self._queue[-1].keep_alive = False
            self._deaf = True
        else:
            self._queue.clear()
            self._refuse(bad_request("this server is no tunnel"))

    def _answer_refusal(self, error: ApiError) -> None:
        self.transport.write(error.answer(request_id=None, close=True))
        self._stop()
        self.transport.resume_reading()

    def _stop(self) -> None:
        """Close once the client has what was written, or has seen that no more comes."""
        self._deaf = True
        self._queue.clear()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self._lingering = True
            self.due = self._time() + LINGER_S
            self.transport.write_eof()
        else:
            self.transport.close()

"""A client that sees how an answer ended: whole, cut, by an error event, or not at all."""

import asyncio
import enum
import time
from collections.abc import Mapping

import httptools
import msgspec

COMPLETIONS = "/v1/chat/completions"


class End(enum.Enum):
    """How an answer ended."""

    WHOLE = "whole"
    CUT = "cut short"
    UNANSWERED = "closed without an answer"
    REFUSED = "connection refused"
    LATE = "no end in time"


class Reply(msgspec.Struct, kw_only=True):
    """One answer, as far as it came."""

    end: End = End.UNANSWERED
    status: int | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    first_byte_s: float | None = None

    @property
    def events(self) -> int:
        """Tokens of an event stream that came."""
        return self.body.count(b'"delta"')

    @property
    def error_event(self) -> bool:
        """Whether an event stream says that it failed."""
        return self.headers.get("content-type", "").startswith("text/event-stream") and (
            b'data: {"error"' in self.body or b"event: error" in self.body
        )

    @property
    def served(self) -> bool:
        """Whether the client got everything it asked for."""
        return self.end is End.WHOLE and self.status == 200 and not self.error_event


class _Reader:
    """Collects one answer from bytes; its methods are called by the parser."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._parser = httptools.HttpResponseParser(self)
        self.whole = False

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._reply.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._reply.body += body

    def on_message_complete(self) -> None:
        self.whole = True


class Connection:
    """One client connection, kept alive between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(
        self,
        body: bytes,
        *,
        path: str = COMPLETIONS,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send one request."""
        fields = {"Host": "127.0.0.1", "Content-Type": "application/json", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"{method} {path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)  # not drained: a body may be refused before it is out

    async def receive(self, *, timeout_s: float, stop_after_events: int | None = None) -> Reply:
        """Read one answer, or its beginning."""
        reply, started = Reply(), time.perf_counter()
        parsing = _Reader(reply)
        try:
            async with asyncio.timeout(timeout_s):
                while not parsing.whole:
                    data = await self._reader.read(65536)
                    if not data:
                        break
                    reply.first_byte_s = reply.first_byte_s or time.perf_counter() - started
                    parsing.feed(data)
                    if stop_after_events is not None and reply.events >= stop_after_events:
                        break
            reply.end = _end(reply, whole=parsing.whole)
        except TimeoutError:
            reply.end = End.LATE
        except (ConnectionError, httptools.HttpParserError):
            reply.end = _end(reply, whole=False)
        reply.seconds = time.perf_counter() - started
        return reply

    def leave(self) -> None:
        """Close at once."""
        self._writer.transport.abort()


def _end(reply: Reply, *, whole: bool) -> End:
    if whole:
        return End.WHOLE
    if reply.status is None:
        return End.UNANSWERED
    framed = "content-length" in reply.headers or "transfer-encoding" in reply.headers
    return End.CUT if framed else End.WHOLE


async def connect(port: int) -> Connection:
    """Open a connection. Raises `OSError`."""
    return Connection(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))


async def ask(
    port: int,
    body: bytes,
    *,
    path: str = COMPLETIONS,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Reply:
    """Send one request on a connection of its own and read its answer."""
    try:
        connection = await connect(port)
    except OSError:
        return Reply(end=End.REFUSED)
    try:
        connection.send(body, path=path, method=method, headers=headers)
        return await connection.receive(timeout_s=timeout_s)
    finally:
        connection.leave()

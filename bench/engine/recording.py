"""A request whose answer is only kept as it comes, with times, and read when it has ended.

Client and server share the machine's cores. What a client does for a token comes off the speed of both
servers, and more off the faster one's. So a connection is a bare protocol that appends what it is given.
"""

import asyncio
import time
from urllib.parse import urlsplit

import httptools
import msgspec

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 300.0


class RecordingError(RuntimeError):
    """There was no whole HTTP answer."""


class Piece(msgspec.Struct, frozen=True):
    """Bytes that came at once, and when on `time.perf_counter`."""

    data: bytes
    at: float


class HttpAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answered."""

    status: int
    body: list[Piece]


async def record(url: str, path: str, body: object) -> HttpAnswer:
    """Post JSON on a connection of its own; return the whole answer. Raises `RecordingError`."""
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    content = msgspec.json.encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            transport, recorder = await loop.create_connection(_Recorder, host, port)
        transport.write(head.encode() + content)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return read_answer(await recorder.pieces)
    except (OSError, TimeoutError) as error:
        raise RecordingError(f"{url}{path}: {type(error).__name__} {error}") from error


def read_answer(pieces: list[Piece]) -> HttpAnswer:
    """Take the framing off; pieces of the body keep their times. Raises `RecordingError`."""
    reader = _Reader()
    parser = httptools.HttpResponseParser(reader)
    try:
        for piece in pieces:
            reader.at = piece.at
            parser.feed_data(piece.data)
    except httptools.HttpParserError as error:
        raise RecordingError(f"no HTTP: {error}") from error
    if not reader.is_whole:
        raise RecordingError("the answer was cut off")
    return HttpAnswer(status=parser.get_status_code(), body=reader.body)


class _Recorder(asyncio.Protocol):
    """Keeps what comes until the server closes the connection."""

    def __init__(self) -> None:
        self.pieces: asyncio.Future[list[Piece]] = asyncio.get_running_loop().create_future()
        self._kept: list[Piece] = []

    def data_received(self, data: bytes) -> None:
        self._kept.append(Piece(data, time.perf_counter()))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.pieces.done():
            return
        if exc is None:
            self.pieces.set_result(self._kept)
        else:
            self.pieces.set_exception(exc)


class _Reader:
    """What `httptools` calls."""

    def __init__(self) -> None:
        self.at = 0.0
        self.body: list[Piece] = []
        self.is_whole = False

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self.body.append(Piece(data, self.at))

    def on_message_complete(self) -> None:
        """Note the end."""
        self.is_whole = True

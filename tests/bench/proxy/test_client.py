"""The client tells a whole answer from a broken one, however it broke."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from baton.bench.proxy.client import End, ask
from baton.bench.proxy.faults import describe
from baton.cli.free_port import free_ports

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """Serve `answer` to everybody, then close."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("answer", "end", "words"),
    [
        (HEAD + chunk(b'data: {"delta"}\n\n') + LAST, End.WHOLE, "ok"),
        (HEAD + chunk(b'data: {"delta"}\n\n'), End.CUT, "200, 1 tokens, no error event, cut short"),
        (HEAD + chunk(b'data: {"error": {}}\n\n') + LAST, End.WHOLE, "200, 0 tokens, error event"),
        (b"", End.UNANSWERED, "closed without an answer"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops", End.WHOLE, "500, not an OpenAI error"),
        (
            b'HTTP/1.1 503 No\r\nContent-Length: 29\r\n\r\n{"error":{"message":"later"}}',
            End.WHOLE,
            "503",
        ),
    ],
)
async def test_every_end_is_told_apart(answer: bytes, end: End, words: str) -> None:
    async with answering(answer) as port:
        reply = await ask(port, b"{}")

    assert reply.end is end
    assert describe([reply]) == words


async def test_a_closed_port_is_a_refusal() -> None:
    assert (await ask(free_ports(1)[0], b"{}")).end is End.REFUSED


async def test_many_answers_are_counted_by_how_they_ended() -> None:
    async with answering(HEAD + LAST) as good, answering(b"") as bad:
        replies = [await ask(port, b"{}") for port in (good, bad, good)]

    assert describe(replies) == "2/3 ok, 1/3 closed without an answer"

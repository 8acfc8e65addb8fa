"""An answer is kept with the times at which its bytes came, and read only when it has ended."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from baton.bench.engine.recording import Piece, RecordingError, read_answer, record

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_the_framing_is_taken_off_and_times_stay() -> None:
    answer = read_answer(
        [Piece(CHUNKED + b"3\r\nabc\r\n", 1.0), Piece(b"2\r\nde\r\n", 2.0), Piece(b"0\r\n\r\n", 3.0)]
    )
    assert answer.status == 200
    assert answer.body == [Piece(b"abc", 1.0), Piece(b"de", 2.0)]


def test_a_chunk_that_comes_in_parts_keeps_the_time_of_each() -> None:
    answer = read_answer([Piece(CHUNKED + b"4\r\nab", 1.0), Piece(b"cd\r\n0\r\n\r\n", 2.0)])
    assert answer.body == [Piece(b"ab", 1.0), Piece(b"cd", 2.0)]


@pytest.mark.parametrize("came", [b"", CHUNKED, CHUNKED + b"3\r\nabc\r\n"])
def test_an_answer_that_is_cut_off_is_an_error(came: bytes) -> None:
    with pytest.raises(RecordingError, match="cut off"):
        read_answer([Piece(came, 1.0)] if came else [])


def test_what_is_no_http_is_an_error() -> None:
    with pytest.raises(RecordingError, match="no HTTP"):
        read_answer([Piece(b"hello\r\n\r\n", 1.0)])


async def test_a_request_is_answered_over_a_connection_of_its_own() -> None:
    async def double(request: web.Request) -> web.Response:
        return web.json_response((await request.json())["number"] * 2, status=201)

    app = web.Application()
    app.router.add_post("/double", double)
    async with TestServer(app) as server:
        answer = await record(str(server.make_url("")).rstrip("/"), "/double", {"number": 21})
    assert answer.status == 201
    assert b"".join(piece.data for piece in answer.body) == b"42"


async def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RecordingError, match="ConnectionRefusedError"):
        await record(f"http://127.0.0.1:{unused_port()}", "/", {})


async def test_a_connection_that_breaks_is_an_error() -> None:
    async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(break_off, "127.0.0.1")
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RecordingError):
            await record(f"http://127.0.0.1:{port}", "/", {"much": "x" * 1000})

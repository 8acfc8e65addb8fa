"""A stream is judged by how it ended, not by what it said."""

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from baton.bench.stream import Answer, Outcome, stream

TOKEN = b'data: {"choices":[{"text":"a","token_ids":[7],"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"text":"b","token_ids":[8],"finish_reason":"length"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2},"baton":{"kv_bytes":64}}\n\n'
DONE = b"data: [DONE]\n\n"


async def ask(body: bytes, status: int = 200) -> Answer:
    """Stream from a server that answers `body`."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        return await stream(session, str(server.make_url("/")), {"prompt": "x"})


async def test_a_whole_stream_gives_text_tokens_and_reports() -> None:
    answer = await ask(TOKEN + LAST + USAGE + DONE)

    assert answer.outcome is Outcome.WHOLE
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("ab", [7, 8], "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    assert answer.baton is not None
    assert answer.baton.kv_bytes == 64
    assert answer.ttft_s is not None


@pytest.mark.parametrize(
    ("body", "status", "outcome", "detail"),
    [
        (TOKEN, 200, Outcome.CUT, ""),
        (TOKEN + b'data: {"error":{"message":"gone"}}\n\n', 200, Outcome.ERROR_EVENT, "gone"),
        (TOKEN + b"data: {\n\n", 200, Outcome.MALFORMED, "truncated"),
        (TOKEN + DONE, 200, Outcome.MALFORMED, "the stream had no finish_reason and no usage"),
        (b"busy", 503, Outcome.REFUSED, "HTTP 503: busy"),
    ],
)
async def test_every_other_end_is_told_apart(body: bytes, status: int, outcome: Outcome, detail: str) -> None:
    answer = await ask(body, status)

    assert answer.outcome is outcome
    assert detail in answer.detail


async def test_a_server_that_is_not_there_is_a_broken_connection(unused_tcp_port: int) -> None:
    async with aiohttp.ClientSession() as session:
        answer = await stream(session, f"http://127.0.0.1:{unused_tcp_port}/", {})

    assert answer.outcome is Outcome.BROKEN

"""A streamed answer is whole or an error that says what happened."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from baton.cli.answers import text_of
from baton.cli.chat import ChatError, ChatSettings, Message, stream_chat

GOOD = [b'{"choices":[{"delta":{"content":"4"}}]}', b'{"choices":[{"delta":{"content":"2"}}]}', b"[DONE]"]


class FakeServer:
    """Answers every chat with the given events, or with a refusal."""

    def __init__(self, events: list[bytes], *, status: int = 200, body: str = "") -> None:
        self.events = events
        self.status = status
        self.body = body
        self.asked: list[dict[str, object]] = []

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "first"}, {"id": "second"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        if self.status != 200:
            return web.Response(status=self.status, text=self.body)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self.events:
            await response.write(b"data: " + event + b"\n\n")
        return response


async def ask(server: FakeServer, model: str | None = None) -> str:
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/chat/completions", server.chat)
    async with TestServer(app) as running:
        settings = ChatSettings(
            url=str(running.make_url("")).rstrip("/"), model=model, max_tokens=8, temperature=0
        )
        return "".join([text_of(chunk) async for chunk in stream_chat(settings, [Message("user", "6*7?")])])


async def test_an_answer_is_streamed_to_its_end() -> None:
    server = FakeServer(GOOD)

    assert await ask(server, model="mine") == "42"
    (body,) = server.asked
    assert body["model"] == "mine"
    assert body["messages"] == [{"role": "user", "content": "6*7?"}]
    assert body["stream_options"] == {"include_usage": True}


async def test_without_a_name_the_first_model_is_asked() -> None:
    server = FakeServer(GOOD)

    await ask(server)

    assert server.asked[0]["model"] == "first"


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (FakeServer(GOOD[:1]), "ended without its closing event"),
        (FakeServer([GOOD[0], b'{"error":{"message":"decode-0 is gone"}}']), "decode-0 is gone"),
        (FakeServer([b"nonsense"]), "no chat chunk"),
        (
            FakeServer([], status=400, body='{"error":{"message":"messages: empty"}}'),
            "HTTP 400: messages: empty",
        ),
        (FakeServer([], status=502, body="<html>"), "HTTP 502: <html>"),
    ],
)
async def test_anything_else_is_an_error_that_says_what_happened(server: FakeServer, message: str) -> None:
    with pytest.raises(ChatError, match=message):
        await ask(server)


async def test_a_server_that_is_not_there_is_named(unused_tcp_port: int) -> None:
    settings = ChatSettings(url=f"http://127.0.0.1:{unused_tcp_port}", model="m", max_tokens=1, temperature=0)

    with pytest.raises(ChatError, match=f"nothing listens at http://127.0.0.1:{unused_tcp_port}"):
        async for _ in stream_chat(settings, [Message("user", "hello")]):
            pass

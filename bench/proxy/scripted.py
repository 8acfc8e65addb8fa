"""Workers that do what a script says: answer, fail, hang, die half-way. They see who leaves.

A scripted worker speaks all three dialects. To vLLM's two-legged one and to Baton's it answers the prefill
leg with `kv_transfer_params`; to the bootstrap one it answers both legs of a request.
"""

import asyncio
import logging
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from .block_cache import BlockCache, prompt_text
from .compiled import Ports

PREFILL, DECODE = "prefill", "decode"
PREFILL_S_PER_CHAR = 1e-6
KV_FIELDS = ("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room")
LARGEST_BODY = 64 * 1024 * 1024


_silent = logging.getLogger(f"{__name__}.server")
_silent.disabled = True  # bad requests are sent on purpose, and some routers first try HTTP/2


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker serves completions."""

    status: int = 200
    tokens: int = 8
    token_interval_s: float = 0.01
    delay_s: float = 0.0
    """Before the answer begins."""
    hangs: bool = False
    """Never answers."""
    closes_unanswered: bool = False
    """Closes the connection where an answer should come."""
    closes_after_head: bool = False
    dies_after_tokens: int | None = None
    """Aborts the connection in the middle of the stream."""


@dataclass
class Seen:
    """What a worker was asked."""

    calls: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    renders: int = 0
    aborts: int = 0
    """`POST /abort/...`"""
    left_at: list[float] = field(default_factory=list)
    """When clients closed connections whose answers were not done."""


class ScriptedWorker:
    """One worker on a port of its own."""

    def __init__(self, role: str, cache: BlockCache | None = None) -> None:
        self.role = role
        self.script = Script()
        self.cache = cache
        self.seen = Seen()
        self.port = 0
        self.someone_left = asyncio.Event()
        self._busy = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=LARGEST_BODY)
        for path in ("/v1/chat/completions", "/v1/completions"):
            app.router.add_post(path, self._complete)
            app.router.add_post(f"{path}/render", self._render)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/kv/peers", self._meet)
        app.router.add_post("/abort/{request_id}", self._abort)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None, logger=_silent
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Be gone: connections end, new ones are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- completions

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._serve(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.seen.left_at.append(time.perf_counter())
            self.someone_left.set()
            raise

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        script = self.script
        self.seen.calls += 1
        self.seen.headers.append({name.lower(): value for name, value in request.headers.items()})
        try:
            body = await request.json()
        except ValueError:
            return _failure(400, "not JSON")
        if not isinstance(body, dict) or not isinstance(body.get("messages", body.get("prompt")), list | str):
            return _failure(400, "messages or prompt must be there, as a list or a string")
        self.seen.bodies.append(body)
        await asyncio.sleep(script.delay_s)
        if script.hangs:
            await asyncio.Event().wait()
        if script.closes_unanswered:
            await _abort_connection(request)
        if script.status != 200:
            return _failure(script.status, f"the {self.role} worker was told to answer {script.status}")
        cached_chars = await self._compute(body)
        streams = bool(body.get("stream"))
        if self.role == PREFILL and not streams:
            return web.json_response(self._prefill_answer(body, cached_chars))
        if not streams:
            return web.json_response(_answer(body, script.tokens, cached_chars))
        return await self._stream(request, 1 if self.role == PREFILL else script.tokens)

    async def _compute(self, body: dict[str, Any]) -> int:
        """Look the prompt up; take the time that prefill would."""
        if self.cache is None:
            return 0
        text = prompt_text(body)
        if self.role == DECODE:
            return self.cache.take(text)
        async with self._busy:
            cached = self.cache.take(text)
            await asyncio.sleep((len(text) - cached) * PREFILL_S_PER_CHAR)
        return cached

    def _prefill_answer(self, body: dict[str, Any], cached_chars: int) -> dict[str, Any]:
        tokens = _tokens(prompt_text(body))
        params = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": self._incarnation,
            "remote_request_id": f"chatcmpl-{self.seen.calls}",
            "remote_block_ids": [list(range(1, tokens // 64 + 2))],
            "remote_host": "127.0.0.1",
            "remote_port": self.port,
            "tp_size": 1,
            "remote_num_tokens": tokens,
            "remote_prefill_cached_tokens": cached_chars // 4,
        }
        return {**_answer(body, 1, cached_chars), "kv_transfer_params": params}

    async def _stream(self, request: web.Request, tokens: int) -> web.StreamResponse:
        script = self.script
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if script.closes_after_head:
            await _abort_connection(request)
        for number in range(tokens):
            if number == script.dies_after_tokens:
                await _abort_connection(request)
            await response.write(b"data: %b\n\n" % msgspec.json.encode(_chunk(f" t{number}")))
            await asyncio.sleep(script.token_interval_s)
        await response.write(b"data: [DONE]\n\n")
        return response

    # --- the rest

    @property
    def _incarnation(self) -> str:
        return f"{self.port:032d}"

    async def _render(self, request: web.Request) -> web.Response:
        self.seen.renders += 1
        text = prompt_text(await request.json())
        token_ids = [zlib.crc32(text[at : at + 4].encode()) % 100_000 for at in range(0, len(text), 4)]
        return web.json_response({"token_ids": token_ids})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _ready(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "ready": True,
                "role": self.role,
                "model": "mock",
                "incarnation": self._incarnation,
                "kv": {"host": "127.0.0.1", "port": self.port},
                "peers": [],
                "max_model_len": 131072,
                "kv_tokens_capacity": 2**26,
                "block_tokens": 16,
            }
        )

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "mock", "object": "model"}]})

    async def _meet(self, _request: web.Request) -> web.Response:
        return web.json_response({"incarnation": self._incarnation})

    async def _abort(self, _request: web.Request) -> web.Response:
        self.seen.aborts += 1
        return web.json_response({"aborted": 0, "released": 0})


@dataclass
class ScriptedFleet:
    """Workers of both kinds."""

    prefill: list[ScriptedWorker]
    decode: list[ScriptedWorker]

    @property
    def workers(self) -> list[ScriptedWorker]:
        """All of them."""
        return [*self.prefill, *self.decode]

    @property
    def ports(self) -> Ports:
        """Where they listen."""
        return Ports([worker.port for worker in self.prefill], [worker.port for worker in self.decode])

    async def start(self) -> None:
        """Start all."""
        for worker in self.workers:
            await worker.start()

    async def stop(self) -> None:
        """Stop all."""
        for worker in self.workers:
            await worker.stop()

    def forget(self) -> None:
        """Count anew, and follow no script."""
        for worker in self.workers:
            worker.script = Script()
            worker.seen = Seen()
            worker.someone_left.clear()


def new_fleet(cache_blocks: int | None = None) -> ScriptedFleet:
    """Return two workers of each kind, with caches of so many blocks if given."""

    def workers(role: str) -> list[ScriptedWorker]:
        return [ScriptedWorker(role, BlockCache(cache_blocks) if cache_blocks else None) for _ in range(2)]

    return ScriptedFleet(prefill=workers(PREFILL), decode=workers(DECODE))


def _tokens(text: str) -> int:
    return len(text) // 4 + 1


def _answer(body: dict[str, Any], tokens: int, cached_chars: int) -> dict[str, Any]:
    prompt_tokens = _tokens(prompt_text(body))
    message = {"role": "assistant", "content": "".join(f" t{number}" for number in range(tokens))}
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "text": message["content"], "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": cached_chars // 4},
        },
    }


def _chunk(text: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "mock",
        "choices": [choice],
    }


def _failure(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "mock", "param": None, "code": None}
    return web.json_response({"error": error}, status=status)


async def _abort_connection(request: web.Request) -> None:
    """Cut the connection; the server then cancels the handler, which is this."""
    if request.transport is not None:
        request.transport.abort()
    await asyncio.Event().wait()

"""A worker's frontend, served for a test, with a fake engine at the other end of its socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from baton.engine.api.engine_client import EngineClient
from baton.engine.api.frontend import Frontend
from baton.engine.api.server import listening, make_app
from baton.engine.config import WorkerConfig
from baton.engine.messages import EngineReady, Loading, RequestFailed
from baton.engine.text.tokenizer import Tokenizer

from .fake_engine import FakeEngine, Script


class Watcher:
    """What the worker's shell would be told."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.loading: list[Loading] = []
        self.failures: list[RequestFailed] = []
        self.fatal: str | None = None

    def on_loading(self, progress: Loading) -> None:
        """Note the progress."""
        self.loading.append(progress)

    def on_ready(self, ready: EngineReady) -> None:
        """Wake whoever waits for `ready`."""
        self.ready.set()

    def on_fatal(self, message: str) -> None:
        """Note the engine's last words."""
        self.fatal = message

    def on_leave_result(self, stays_because: str | None) -> None:
        """Nobody leaves."""

    def on_failure(self, failed: RequestFailed) -> None:
        """Note the failure."""
        self.failures.append(failed)


@dataclass
class Served:
    """One running frontend and what it talks to."""

    frontend: Frontend
    engine: FakeEngine
    watcher: Watcher
    tokenizer: Tokenizer
    url: str
    session: aiohttp.ClientSession

    def ids(self, text: str) -> list[int]:
        """Return the token ids of `text` alone."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def says(self, text: str, *, stop: bool = True, **script: Any) -> None:
        """Let the engine answer every request with `text`, and end there if `stop`."""
        end = [self.tokenizer.eos_token_ids[0]] if stop else []
        self.engine.script = Script(reply=self.ids(text) + end, **script)

    async def until(self, condition: Callable[[FakeEngine], bool]) -> None:
        """Wait until the engine has seen what `condition` asks for."""
        assert await asyncio.to_thread(self.engine.wait_for, lambda: condition(self.engine)), "it never came"

    async def start_engine(self) -> None:
        """Start the engine and wait until it serves."""
        self.engine.start()
        await self.watcher.ready.wait()

    async def lose_engine(self, reason: str) -> None:
        """End the engine as a crash would, and tell the frontend what its process watcher would."""
        await asyncio.to_thread(self.engine.stop)
        self.engine.running.clear()
        self.frontend.engine.lost(reason)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """POST `body` as JSON, or as it is when it is bytes; return status and decoded answer."""
        content = {"data": body} if isinstance(body, bytes) else {"json": body}
        kinds = {"Content-Type": "application/json", **headers}
        async with self.session.post(self.url + path, headers=kinds, **content) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, Any]:
        """GET `path`; return status and decoded answer."""
        async with self.session.get(self.url + path) as response:
            return response.status, await response.json()


@contextlib.asynccontextmanager
async def serve(config: WorkerConfig, tokenizer: Tokenizer, ipc_path: Path) -> AsyncIterator[Served]:
    """Serve until left; the engine is not started yet."""
    watcher, engine = Watcher(), FakeEngine(ipc_path)
    client = EngineClient(ipc_path, watcher)
    try:
        frontend = Frontend(config, tokenizer, client)
        app = make_app(frontend)
        async with listening(app, "127.0.0.1", 0) as (host, port), aiohttp.ClientSession() as session:
            frontend.set_address(host, port)
            yield Served(frontend, engine, watcher, tokenizer, f"http://{host}:{port}", session)
        frontend.close()
    finally:
        await asyncio.to_thread(engine.stop)
        client.close_socket()

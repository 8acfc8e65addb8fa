"""Servers that stream completions as fast as an engine model says, and a fleet that lists them."""

import asyncio
import json
from typing import Any

from aiohttp import web

from baton.proxy.simulator.engine_model import EngineModel

PREFILL, DECODE = "p0", "d0"
KV_BYTES = 1000


class ScriptedFleet:
    """A proxy in front of one prefill and one decode worker, in one application."""

    def __init__(self, model: EngineModel, *, tells_phases: bool = True) -> None:
        self.model = model
        self.tells_phases = tells_phases
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.refusal: str | None = None
        self.broken_after: int | None = None
        self._decoding: dict[int, int] = {}

    def app(self) -> web.Application:
        """Return the application; `url` is to be set to where it listens."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/ready", self._ready)
        app.router.add_post("/v1/completions", self._complete)
        if self.tells_phases:
            app.router.add_get("/fleet", self._fleet)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "max_model_len": 600}]})

    async def _ready(self, request: web.Request) -> web.Response:
        return web.json_response({"ready": True, "kv_tokens_capacity": 9000, "max_model_len": 600})

    async def _fleet(self, request: web.Request) -> web.Response:
        workers = [
            {"name": PREFILL, "role": "prefill", "url": self.url},
            {"name": DECODE, "role": "decode", "url": self.url},
        ]
        return web.json_response({"workers": workers})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        if self.refusal is not None:
            error = {"message": self.refusal, "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        prompt, number = len(body["prompt"]), len(self.asked)
        prefill_s = self._prefill_s(prompt)
        await asyncio.sleep(prefill_s)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for token in range(body["max_tokens"]):
            if token == self.broken_after:
                break
            if token:
                self._decoding[number] = prompt + token
                await asyncio.sleep(self._step_s())
            await self._send(response, {"choices": [{"text": "x", "token_ids": [7]}]})
        self._decoding.pop(number, None)
        usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}
        await self._send(response, {"choices": [], "usage": usage, **self._report(prompt, prefill_s)})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _prefill_s(self, prompt: int) -> float:
        model = self.model.prefill
        return model.step_base_s + model.token_s * prompt + model.pair_s * prompt**2 / 2

    def _step_s(self) -> float:
        model, rows = self.model.decode, len(self._decoding)
        context = sum(self._decoding.values())
        return model.step_base_s + model.row_s * model.padded(rows) + model.context_token_s * context

    def _report(self, prompt: int, prefill_s: float) -> dict[str, Any]:
        if not self.tells_phases:
            return {}
        link, kv_bytes = self.model.link, KV_BYTES * prompt
        phases = {
            "queue_s": 0.0,
            "prefill_s": prefill_s,
            "transfer_s": link.base_s + kv_bytes / link.bytes_per_s,
            "first_step_s": 0.001,
        }
        report = {"prefill_worker": PREFILL, "decode_worker": DECODE, "kv_bytes": kv_bytes, "phases": phases}
        return {"baton": {**report, "cached_tokens": 0, "recomputed": False}}

"""Admin calls that change the fleet; they must bring the token that the configuration names a file of.

POST   /admin/workers                  list a worker: url, role, and what else a configuration may say of it
POST   /admin/workers/{name}/drain     send it nothing new
DELETE /admin/workers/{name}/drain     put it back
DELETE /admin/workers/{name}           drain it, then forget it
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from .admin_answers import error_answer, json_answer
from .config import WorkerAddress
from .fleet_keeper import FleetKeeper
from .routing.fleet import Worker

Handler = Callable[[web.Request], Awaitable[web.Response]]
FROM_SIBLING = "X-Baton-Sibling"
"""Stands in calls that another process of this proxy has let in already; no client's request can bring it."""


class WorkersApi:
    """Handlers of one proxy."""

    def __init__(self, keeper: FleetKeeper, token_file: str | None) -> None:
        self._keeper = keeper
        self._token_file = token_file

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/admin/workers", self._guarded(self._add))
        app.router.add_post("/admin/workers/{name}/drain", self._guarded(self._drain))
        app.router.add_delete("/admin/workers/{name}/drain", self._guarded(self._undrain))
        app.router.add_delete("/admin/workers/{name}", self._guarded(self._remove))

    def _guarded(self, handler: Handler) -> Handler:
        async def guard(request: web.Request) -> web.Response:
            error = await self._refusal(request)
            return await handler(request) if error is None else error

        return guard

    async def _refusal(self, request: web.Request) -> web.Response | None:
        if FROM_SIBLING in request.headers:
            return None
        if self._token_file is None:
            return error_answer(403, "admin calls are off: no admin_token_file is configured", "admin_off")
        try:
            token = (await asyncio.to_thread(Path(self._token_file).read_bytes)).strip()
        except OSError as error:
            return error_answer(500, f"the admin token cannot be read: {error.strerror}", "admin_token")
        given = request.headers.get("Authorization", "").encode()
        if not token or not hmac.compare_digest(given, b"Bearer " + token):
            return error_answer(401, "the admin token is missing or wrong", "invalid_admin_token")
        return None

    async def _add(self, request: web.Request) -> web.Response:
        try:
            address = msgspec.json.decode(await request.read(), type=WorkerAddress)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return error_answer(400, str(error), "invalid_worker")
        if self._keeper.find(address.title) is not None:
            return error_answer(409, f"there is a worker {address.title} already", "worker_exists")
        self._keeper.add(address)
        return json_answer({"name": address.title}, 201)

    async def _drain(self, request: web.Request) -> web.Response:
        worker = self._keeper.find(request.match_info["name"])
        if worker is None:
            return _unknown(request)
        self._keeper.drain(worker)
        return json_answer(self._standing(worker), 202)

    async def _undrain(self, request: web.Request) -> web.Response:
        worker = self._keeper.find(request.match_info["name"])
        if worker is None:
            return _unknown(request)
        if not self._keeper.undrain(worker):
            return error_answer(409, f"the worker {worker.name} is being removed", "worker_leaving")
        return json_answer(self._standing(worker))

    async def _remove(self, request: web.Request) -> web.Response:
        worker = self._keeper.find(request.match_info["name"])
        if worker is None:
            return _unknown(request)
        self._keeper.remove(worker)
        return json_answer(self._standing(worker), 202)

    def _standing(self, worker: Worker) -> dict[str, Any]:
        return {
            "name": worker.name,
            "draining": worker.draining,
            "idle": self._keeper.is_idle(worker),
            "prefill_requests": worker.prefill_requests,
            "decode_requests": worker.decode_requests,
        }


def _unknown(request: web.Request) -> web.Response:
    return error_answer(404, f"there is no worker {request.match_info['name']}", "worker_not_found")

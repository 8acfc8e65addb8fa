"""The admin application: everything a proxy answers itself. Listens on a socket file of its own process."""

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .admin_answers import error_answer
from .fleet_keeper import FleetKeeper
from .hub import Hub
from .readiness import fleet_report, models_report, policies_report, ready_report
from .route_api import RouteApi
from .workers_api import WorkersApi

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminApp:
    """Handlers of one proxy."""

    def __init__(self, hub: Hub, keeper: FleetKeeper, registry: CollectorRegistry) -> None:
        self._hub = hub
        self._keeper = keeper
        self._registry = registry
        self._started_at = int(time.time())

    def application(self, *middlewares: Middleware) -> web.Application:
        """Return the routes."""
        limit = self._hub.config.limits.body_bytes
        around: list[Middleware] = [openai_errors, *middlewares]
        app = web.Application(middlewares=around, client_max_size=limit)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/fleet", self._fleet)
        app.router.add_get("/metrics", self._metrics)
        RouteApi(self._hub).add_to(app)
        WorkersApi(self._keeper, self._hub.config.admin_token_file).add_to(app)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        for path in ("/v1/chat/completions", "/v1/completions"):
            app.router.add_post(path, self._front_serves_it)  # makes other methods 405, not 404
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _ready(self, request: web.Request) -> web.Response:
        report = ready_report(self._hub.router.fleet, draining=self._hub.draining)
        return web.json_response(report, status=200 if report["ready"] else 503)

    async def _fleet(self, request: web.Request) -> web.Response:
        hub = self._hub
        policies = policies_report(hub.courses, hub.policy_watch.problems)
        report = fleet_report(hub.router, policies, hub.loop.time(), self._keeper.urls)
        return web.json_response(report)

    async def _metrics(self, request: web.Request) -> web.Response:
        text = generate_latest(self._registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(models_report(self._hub.router.fleet, self._started_at))

    async def _model(self, request: web.Request) -> web.Response:
        wanted = request.match_info["model"]
        for entry in models_report(self._hub.router.fleet, self._started_at)["data"]:
            if entry["id"] == wanted:
                return web.json_response(entry)
        return error_answer(404, f"the model {wanted!r} does not exist", "model_not_found", param="model")

    async def _front_serves_it(self, request: web.Request) -> web.Response:
        raise web.HTTPInternalServerError(reason="a completion must not come here")


@web.middleware
async def openai_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give aiohttp's own refusals (404, 405, 500) the shape that clients parse."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        message = f"{HTTPStatus(error.status).phrase}: {request.method} {request.path}"
        answer = error_answer(error.status, message, HTTPStatus(error.status).name.lower())
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer


@contextlib.asynccontextmanager
async def private_socket(path: Path | None = None) -> AsyncIterator[tuple[socket.socket, Path]]:
    """Bind a socket file that only this user can reach: `path` in a folder for that, or one of its own."""
    if path is not None:
        await asyncio.to_thread(path.unlink, missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
            bound.bind(str(path))
            yield bound, path
        return
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="baton-proxy-")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = Path(folder.name) / "admin.sock"
        bound.bind(str(path))
        yield bound, path
    finally:
        bound.close()
        await asyncio.to_thread(folder.cleanup)


@contextlib.asynccontextmanager
async def serving_admin(app: web.Application, bound: socket.socket) -> AsyncIterator[None]:
    """Serve `app` on a bound socket."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, bound).start()
        yield
    finally:
        await runner.cleanup()

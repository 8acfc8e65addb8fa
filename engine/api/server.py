"""The worker's aiohttp application: routes, and errors as OpenAI-shaped JSON whatever goes wrong."""

import contextlib
import logging
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from . import admin_api, openai_api, tokenize_api
from .bodies import error_response, too_large
from .errors import ApiError
from .frontend import FRONTEND, Frontend

logger = logging.getLogger(__name__)

KEEPALIVE_TIMEOUT_S = 600.0
"""Longer than a router keeps an idle connection, so that it never reuses one that is being closed here."""

SHUTDOWN_TIMEOUT_S = 2.0
"""For handlers that still write when the server closes: draining is over by then."""

BACKLOG = 1024


def make_app(frontend: Frontend) -> web.Application:
    """Return the application of one worker. Run it with `handler_cancellation=True`."""
    app = web.Application(middlewares=[_answer_every_error], client_max_size=frontend.config.max_body_bytes)
    app[FRONTEND] = frontend
    app.add_routes(
        [
            web.post("/v1/completions", openai_api.completions),
            web.post("/v1/chat/completions", openai_api.chat_completions),
            web.get("/v1/models", openai_api.models),
            web.post("/tokenize", tokenize_api.tokenize),
            web.post("/detokenize", tokenize_api.detokenize),
            web.get("/health", admin_api.health),
            web.get("/ready", admin_api.ready),
            web.get("/version", admin_api.version),
            web.get("/metrics", admin_api.metrics),
            web.post("/abort/{request_id}", admin_api.abort),
            web.post("/kv/peers", admin_api.connect_peer),
            web.get("/check", admin_api.check),
        ]
    )
    return app


@contextlib.asynccontextmanager
async def listening(app: web.Application, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
    """Serve `app` and give the address it listens on (port 0: a free one); close connections on exit.

    A handler is cancelled when its client leaves, which is how the engine learns of it.
    """
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        bound_host, bound_port = runner.addresses[0][:2]
        yield bound_host, bound_port
    finally:
        await runner.cleanup()


@web.middleware
async def _answer_every_error(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except ApiError as error:
        response = error_response(error)
    except web.HTTPException as error:
        response = error_response(_of_http(error, request))
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        response = error_response(ApiError(500, "internal error", code="internal"))
    request.app[FRONTEND].metrics.count_http(_route_of(request), response.status)
    return response


def _of_http(error: web.HTTPException, http: web.Request) -> ApiError:
    """Say in our words what the HTTP library refused."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return too_large(http.app[FRONTEND].config.max_body_bytes)
    if error.status == 404:
        return ApiError(404, f"no such endpoint: {http.method} {http.path}", code="not_found")
    if error.status == 405:
        return ApiError(405, f"{http.path} does not allow {http.method}", code="method_not_allowed")
    return ApiError(error.status, error.reason, code=None)


def _route_of(http: web.Request) -> str:
    """The route's pattern as a label: what a client writes into a path must not become one."""
    resource = http.match_info.route.resource
    return "other" if resource is None else resource.canonical

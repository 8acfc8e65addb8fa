"""What the admin application answers in: JSON, and errors in the shape that clients parse."""

import msgspec
from aiohttp import web

from .errors import ApiError


def json_answer(report: object, status: int = 200) -> web.Response:
    """Return `report` as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(report), content_type="application/json")


def error_answer(status: int, message: str, code: str, *, param: str | None = None) -> web.Response:
    """Return an error; `param` names the field that is at fault."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = ApiError(status=status, message=message, type=kind, param=param, code=code)
    return web.Response(status=status, body=error.body(), content_type="application/json")

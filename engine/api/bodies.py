"""Read a request's body and write JSON: the HTTP side of decoding and encoding."""

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from .decoding import decode_body
from .errors import ApiError

T = TypeVar("T")


async def read_request(http: web.Request, decoder: msgspec.json.Decoder[T], *, max_bytes: int) -> T:
    """Read and decode the body. Raises `ApiError` 400 naming the field, or 413."""
    _check_content_type(http)
    if http.content_length is not None and http.content_length > max_bytes:
        raise too_large(max_bytes)
    try:
        body = await http.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large(max_bytes) from error
    return decode_body(body, decoder)


def json_response(value: Any, *, status: int = 200) -> web.Response:
    """Return `value` as a JSON response."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def error_response(error: ApiError) -> web.Response:
    """Return the response of a failed request."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return web.Response(
        body=error.body(), status=error.status, headers=headers, content_type="application/json"
    )


def too_large(max_bytes: int) -> ApiError:
    """Return the 413 of a body over the limit."""
    return ApiError(
        413, f"the request body is larger than {max_bytes} bytes", code="request_entity_too_large"
    )


def _check_content_type(http: web.Request) -> None:
    given = http.headers.get("Content-Type")
    if given is not None and http.content_type != "application/json":
        raise ApiError(400, f"`Content-Type`: expected application/json, got {given!r}", param="Content-Type")

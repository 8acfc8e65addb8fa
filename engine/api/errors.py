"""What a client is told when a request cannot be served: OpenAI's error object and its HTTP status.

Every failure of the API is an `ApiError` by the time it leaves; the server turns it into a response, or,
once a stream flows, into a last `data:` event.
"""

import msgspec

from ..messages import FailureKind, RequestFailed


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every response that is no success."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that gets an error instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """Return the JSON of the error, as a response or an SSE event carries it."""
        detail = ErrorDetail(
            message=self.message, type=error_type(self.status), param=self.param, code=self.code
        )
        return msgspec.json.encode(ErrorBody(error=detail))


def bad_field(param: str, message: str, *, code: str | None = None) -> ApiError:
    """Return the 400 for one field of the request; the message names it."""
    return ApiError(400, f"`{param}`: {message}", param=param, code=code)


def unavailable(message: str, *, code: str) -> ApiError:
    """Return the 503 for a worker that does not serve now."""
    return ApiError(503, message, code=code, retry_after_s=1)


_TYPES = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_type(status: int) -> str:
    """Return OpenAI's `type` for a status."""
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    return _TYPES.get(status, fallback)


_STATUS = {
    FailureKind.BAD_REQUEST: 400,
    FailureKind.OVERLOADED: 429,
    FailureKind.UNAVAILABLE: 503,
    FailureKind.INTERNAL: 500,
}

_RETRYABLE = frozenset({FailureKind.OVERLOADED, FailureKind.UNAVAILABLE})


def error_of_failure(failed: RequestFailed) -> ApiError:
    """Return what the client is told about a failure the engine reported."""
    return ApiError(
        _STATUS[failed.kind],
        failed.message,
        param=failed.param,
        code=failed.kind.value,
        retry_after_s=1 if failed.kind in _RETRYABLE else None,
    )


CLIENT_CLOSED_REQUEST = 499
"""The status of a request that was aborted by its id: no standard one says it, nginx's is understood."""


def aborted_error() -> ApiError:
    """Return what is left to say to a request aborted by its id."""
    return ApiError(CLIENT_CLOSED_REQUEST, "the request was aborted", code="request_aborted")

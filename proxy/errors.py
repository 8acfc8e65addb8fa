"""Errors of the proxy's own, in OpenAI's shape, as whole HTTP answers and as server-sent events."""

from http import HTTPStatus

import msgspec


class ApiError(msgspec.Struct, frozen=True, kw_only=True):
    """One error a client is shown."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None

    def body(self) -> bytes:
        """Return `{"error": {...}}`."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": fields})

    def answer(self, *, request_id: str | None, close: bool, extra: bytes = b"") -> bytes:
        """Return the whole HTTP answer; `extra` are header lines, each with its CRLF."""
        body = self.body()
        head = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n",
            "Content-Type: application/json\r\n",
            f"Content-Length: {len(body)}\r\n",
        ]
        if request_id is not None:
            head.append(f"X-Request-Id: {request_id}\r\n")
        if self.retry_after_s is not None:
            head.append(f"Retry-After: {self.retry_after_s}\r\n")
        if close:
            head.append("Connection: close\r\n")
        return "".join(head).encode() + extra + b"\r\n" + body

    def event(self) -> bytes:
        """Return the error as one server-sent event."""
        return b"data: " + self.body() + b"\n\n"


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400."""
    return ApiError(status=400, message=message, param=param, code=code)


def body_too_large(limit_bytes: int) -> ApiError:
    """Return a 413."""
    message = f"the request body is larger than {limit_bytes} bytes"
    return ApiError(status=413, message=message, code="request_too_large")


def head_too_large(limit_bytes: int) -> ApiError:
    """Return a 431."""
    message = f"the request's headers are larger than {limit_bytes} bytes"
    return ApiError(status=431, message=message, code="headers_too_large")


def model_not_found(model: str) -> ApiError:
    """Return a 404 that names the model."""
    message = f"the model {model!r} does not exist"
    return ApiError(status=404, message=message, param="model", code="model_not_found")


def unavailable(message: str) -> ApiError:
    """Return a 503: nobody can take the request now."""
    return ApiError(status=503, message=message, type="server_error", code="unavailable", retry_after_s=1)


def upstream_failed(message: str, *, timed_out: bool) -> ApiError:
    """Return a 502, or a 504 if a worker took too long."""
    status, code = (504, "upstream_timeout") if timed_out else (502, "upstream_failed")
    return ApiError(status=status, message=message, type="server_error", code=code)


def stream_broken(message: str) -> ApiError:
    """Return the error that ends a stream early."""
    return ApiError(status=502, message=message, type="server_error", code="stream_broken")

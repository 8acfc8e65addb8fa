"""What the proxy has to say of its own: header lines beside an answer, errors in its place. No I/O."""

from .answer import AnswerHead
from .errors import ApiError, stream_broken, unavailable, upstream_failed
from .gate import closing_chunks
from .routing.commands import Failure, Fault
from .routing.fleet import Worker


def refusal(failure: Failure) -> ApiError:
    """Return what the client is told when no worker's own answer can be shown."""
    if failure.fault is Fault.UNREACHABLE:
        return unavailable(f"no worker could be reached: {failure.detail}")
    message = f"every worker that was asked failed; the last: {failure.detail}"
    return upstream_failed(message, timed_out=failure.fault is Fault.TIMEOUT)


def added_lines(
    head: AnswerHead, prefill: Worker | None, decode: Worker | None, request_id: str, *, keep_alive: bool
) -> bytes:
    """Return the header lines that a worker's answer gets on its way to the client."""
    lines = []
    if prefill is not None:
        lines += [b"X-Baton-Prefill: ", prefill.shown, b"\r\n"]
    if decode is not None:
        lines += [b"X-Baton-Decode: ", decode.shown, b"\r\n"]
    if not head.has(b"x-request-id"):
        lines += [b"X-Request-Id: ", request_id.encode(), b"\r\n"]
    if not keep_alive and not head.has(b"connection"):
        lines.append(b"Connection: close\r\n")
    return b"".join(lines)


def last_event(failure: Failure, *, chunked: bool) -> bytes:
    """Return the error event that ends a stream early, in the framing of its answer."""
    event = stream_broken(f"the worker's answer broke off: {failure.detail}").event()
    return closing_chunks(event) if chunked else event

"""What a client asks of admission in its headers, and what it is told when it is not admitted. No I/O.

    Authorization: Bearer KEY          whose request it is
    X-Baton-Priority: 5                higher goes first; at most what the tenant may have
    X-Baton-Queue-Timeout-Ms: 2000     how long it may wait to be started; it is not a limit on the answer

Only requests that wait are affected by the last two. Workers see none of the `X-Baton-` headers.
"""

from typing import Final

from .body import BodyError
from .errors import ApiError, bad_request
from .routing.tenants import Tenants, Terms, UnknownKeyError
from .routing.verdict import RefusalReason, Refuse

API_KEY: Final = b"authorization"
PRIORITY: Final = b"x-baton-priority"
QUEUE_TIMEOUT_MS: Final = b"x-baton-queue-timeout-ms"
_BEARER: Final = b"bearer "
_LONGEST_NUMBER: Final = 9

_MESSAGES = {
    RefusalReason.QUEUE_FULL: "all workers are busy and the queue is full",
    RefusalReason.TENANT_LIMIT: "too many requests of this tenant are waiting",
    RefusalReason.TIMEOUT: "no worker had room for the request in time",
    RefusalReason.NO_WORKERS: "no decode worker is ready",
}


def read_terms(given: dict[bytes, bytes], tenants: Tenants) -> Terms:
    """Return the terms that a request waits under, from its headers by their names in lower case.

    Raises `BodyError` with a 401 or a 400.
    """
    priority = _integer(given, PRIORITY)
    timeout_ms = _integer(given, QUEUE_TIMEOUT_MS)
    if timeout_ms is not None and timeout_ms <= 0:
        raise _bad_header(QUEUE_TIMEOUT_MS, "a positive number of milliseconds")
    max_wait_s = None if timeout_ms is None else timeout_ms / 1000
    try:
        return tenants.terms(_api_key(given.get(API_KEY)), priority=priority, max_wait_s=max_wait_s)
    except UnknownKeyError as error:
        code = "invalid_api_key"
        raise BodyError(ApiError(status=401, message=str(error), type=code, code=code)) from error


def refusal(verdict: Refuse) -> ApiError:
    """Return what a client is told that is not admitted: 429, or 503 when nobody serves the model."""
    unserved = verdict.reason is RefusalReason.NO_WORKERS
    return ApiError(
        status=503 if unserved else 429,
        message=_MESSAGES[verdict.reason],
        type="server_error" if unserved else "rate_limit_error",
        code="unavailable" if unserved else verdict.reason.value,
        retry_after_s=verdict.retry_after_s,
    )


def _api_key(given: bytes | None) -> bytes | None:
    if given is None:
        return None
    return given[len(_BEARER) :].strip() if given[: len(_BEARER)].lower() == _BEARER else given


def _integer(given: dict[bytes, bytes], name: bytes) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    text = value.strip()
    if not text.removeprefix(b"-").isdigit() or len(text) > _LONGEST_NUMBER:
        raise _bad_header(name, "an integer")
    return int(text)


def _bad_header(name: bytes, expected: str) -> BodyError:
    shown = name.decode().title()
    return BodyError(
        bad_request(f"the header {shown} must be {expected}", param=shown, code="invalid_header")
    )

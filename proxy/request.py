"""One client request as the front door hands it on, and the head that its legs carry. No I/O."""

import os
from dataclasses import dataclass, field

from .errors import ApiError

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer "
    b"transfer-encoding upgrade".split()
)
OURS = frozenset(b"host content-length content-type accept-encoding expect x-request-id".split())
"""Set anew for every leg. Answers are asked for unencoded: their event boundaries must be visible."""
DROPPED = HOP_BY_HOP | OURS
PLAIN_CONNECTIONS = (b"keep-alive", b"close", b"Keep-Alive", b"Close")
RESERVED_PREFIX = b"x-baton-"
LONGEST_REQUEST_ID = 128
COMPLETIONS = frozenset((b"/v1/chat/completions", b"/v1/completions"))
"""Paths that are routed to workers."""


@dataclass(slots=True)
class ClientRequest:
    """One request, whole, or a refusal of one that was not taken whole."""

    method: bytes = b""
    target: bytes = b""
    """Path and query."""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    http_1_0: bool = False
    keep_alive: bool = True
    refusal: ApiError | None = None
    """Why the request is not served, found while it was read."""

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def is_completion(self) -> bool:
        """Whether workers serve it."""
        return self.method == b"POST" and self.path in COMPLETIONS


class LegHead:
    """What the heads of a request's legs have in common."""

    __slots__ = ("_passed", "_request", "session", "wanted_id")

    def __init__(self, request: ClientRequest) -> None:
        self._request = request
        self.wanted_id = ""
        """The client's own `X-Request-Id`, or a new one."""
        self.session = b""
        """The client's `X-Session-ID`; workers get it too."""
        passed = [
            (key, name, value)
            for name, value in request.headers
            if (key := name.lower()) not in DROPPED and not key.startswith(RESERVED_PREFIX)
        ]
        for name, value in request.headers:
            if len(name) == 12 and (key := name.lower()) in (b"x-request-id", b"x-session-id"):
                if key == b"x-request-id":
                    self.wanted_id = usable_id(value)
                else:
                    self.session = value
            elif len(name) == 10 and value not in PLAIN_CONNECTIONS and name.lower() == b"connection":
                named = [token.strip().lower() for token in value.split(b",")]
                passed = [entry for entry in passed if entry[0] not in named]
        self._passed = b"".join([b"%b: %b\r\n" % (name, value) for _, name, value in passed])
        self.wanted_id = self.wanted_id or os.urandom(16).hex()

    def build(self, host: bytes, wire_id: str, body_length: int, *, http_1_0: bool = False) -> bytes:
        """Return the head of a leg with a JSON body."""
        request = self._request
        return b"".join((
            request.method, b" ", request.target, b" HTTP/1.0\r\n" if http_1_0 else b" HTTP/1.1\r\n",
            b"Host: ", host, b"\r\nContent-Type: application/json\r\n", self._passed,
            b"X-Request-Id: ", wire_id.encode(), b"\r\nContent-Length: %d\r\n\r\n" % body_length,
        ))  # fmt: skip


def usable_id(value: bytes) -> str:
    """Return a client's request id as text, empty if it cannot stand in a URL and a log line."""
    text = value.decode("latin-1").strip()
    if 0 < len(text) <= LONGEST_REQUEST_ID and text.isascii() and text.isprintable():
        return text
    return ""

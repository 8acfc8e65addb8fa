"""One client request as the front door hands it on, and the head that its legs carry. No I/O."""

import os
from typing import Final

from .errors import ApiError

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer "
    b"transfer-encoding upgrade".split()
)
OURS = frozenset(b"host content-length content-type accept-encoding expect x-request-id".split())
"""Set anew for every leg. Answers are asked for unencoded: their event boundaries must be visible."""
DROPPED = HOP_BY_HOP | OURS
PLAIN_CONNECTIONS: Final = (b"keep-alive", b"close", b"Keep-Alive", b"Close")
RESERVED_PREFIX = b"x-baton-"
READ: Final = OURS | {b"connection", b"proxy-connection", b"authorization", b"x-session-id"}
"""Headers whose values the proxy itself looks at, beside those with the reserved prefix."""
MOST_NAMES: Final = 1024
"""Spellings of header names that are remembered."""
LONGEST_REQUEST_ID: Final = 128
HTTP_1_0: Final = b" HTTP/1.0\r\nHost: "
HTTP_1_1: Final = b" HTTP/1.1\r\nHost: "
JSON_TYPE: Final = b"\r\nContent-Type: application/json\r\n"
REQUEST_ID: Final = b"X-Request-Id: "
LENGTH: Final = b"\r\nContent-Length: "
COMPLETIONS: Final = frozenset((b"/v1/chat/completions", b"/v1/completions"))
"""Paths that are routed to workers."""


class ClientRequest:
    """One request, whole, or a refusal of one that was not taken whole."""

    __slots__ = (
        "body", "given", "headers", "http_1_0", "keep_alive", "method", "passed", "refusal", "target",
    )  # fmt: skip

    def __init__(self, refusal: ApiError | None = None) -> None:
        self.method = b""
        self.target = b""
        """Path and query."""
        self.headers: list[tuple[bytes, bytes]] = []
        self.given: dict[bytes, bytes] = {}
        """Those that the proxy looks at, by their names in lower case; the first of each."""
        self.passed: list[bytes] = []
        """Lines of those that workers see."""
        self.body = b""
        self.http_1_0 = False
        self.keep_alive = True
        self.refusal = refusal
        """Why the request is not served, found while it was read."""

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def head_bytes(self) -> int:
        """How long the target and the headers are."""
        return len(self.target) + sum(len(name) + len(value) for name, value in self.headers)

    @property
    def is_completion(self) -> bool:
        """Whether workers serve it."""
        return self.method == b"POST" and (self.target in COMPLETIONS or self.path in COMPLETIONS)

    def sort_headers(self) -> None:
        """Tell apart the headers that the proxy looks at and those that workers see."""
        given, passed = self.given, self.passed
        for name, value in self.headers:
            key, passes = _uses.get(name) or _use_of(name)
            if passes:
                passed.append(b"%b: %b\r\n" % (name, value))
            if key:
                given.setdefault(key, value)
        connection = given.get(b"connection")
        if connection is not None and connection not in PLAIN_CONNECTIONS:
            named = {token.strip().lower() for token in connection.split(b",")}
            self.passed = [line for line in passed if line.partition(b":")[0].lower() not in named]


_uses: Final[dict[bytes, tuple[bytes, bool]]] = {}
"""By a header's name as it was written: its key if the proxy looks at it, and whether workers see it."""


def _use_of(name: bytes) -> tuple[bytes, bool]:
    key = name.lower()
    reserved = key.startswith(RESERVED_PREFIX)
    use = key if reserved or key in READ else b"", not reserved and key not in DROPPED
    if len(_uses) < MOST_NAMES:
        _uses[name] = use
    return use


class LegHead:
    """What the heads of a request's legs have in common."""

    __slots__ = ("_passed", "_request", "session", "wanted_id")

    def __init__(self, request: ClientRequest) -> None:
        self._request = request
        self._passed = b"".join(request.passed)
        given = request.given.get(b"x-request-id")
        self.wanted_id = (usable_id(given) if given is not None else "") or fresh_id()
        """The client's own `X-Request-Id`, or a new one."""
        self.session = request.given.get(b"x-session-id", b"")
        """The client's `X-Session-ID`; workers get it too."""

    def whole(
        self, host: bytes, wire_id: str, body: list[bytes | memoryview], *, http_1_0: bool = False
    ) -> list[bytes | memoryview]:
        """Return a leg's whole request in pieces; a short one in one piece."""
        if len(body) == 1:
            [text] = body
            return [self.build(host, wire_id, len(text), http_1_0=http_1_0) + text]
        return [self.build(host, wire_id, sum(map(len, body)), http_1_0=http_1_0), *body]

    def build(self, host: bytes, wire_id: str, body_length: int, *, http_1_0: bool = False) -> bytes:
        """Return the head of a leg with a JSON body."""
        request = self._request
        return b"".join((
            request.method, b" ", request.target, HTTP_1_0 if http_1_0 else HTTP_1_1, host, JSON_TYPE,
            self._passed, REQUEST_ID, wire_id.encode(), LENGTH, b"%d" % body_length, b"\r\n\r\n",
        ))  # fmt: skip


def usable_id(value: bytes) -> str:
    """Return a client's request id as text, empty if it cannot stand in a URL and a log line."""
    text = value.decode("latin-1").strip()
    if 0 < len(text) <= LONGEST_REQUEST_ID and text.isascii() and text.isprintable():
        return text
    return ""


_fresh: Final[list[str]] = []


def fresh_id() -> str:
    """Return an id that nobody else has. Randomness is drawn for many at a time."""
    if not _fresh:
        drawn = os.urandom(16 * 64).hex()
        _fresh.extend(drawn[start : start + 32] for start in range(0, len(drawn), 32))
    return _fresh.pop()

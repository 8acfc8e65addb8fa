"""The head of a worker's answer: passed on as it came, and read for its framing alone. No I/O."""


class AnswerHead:
    """Status line and headers, as bytes. What only some legs ask of it is looked for when they ask, once."""

    __slots__ = ("_chunked", "_event_stream", "_lower", "keep_alive", "raw", "status")

    def __init__(self, raw: bytes, status: int, *, keep_alive: bool) -> None:
        """`raw` ends with the blank line; `keep_alive` is what the parser makes of it."""
        self.raw = raw
        self.status = status
        self.keep_alive = keep_alive
        """Whether its connection can carry another answer: no body that ends with it, and no `close`."""
        self._lower: bytes | None = None
        self._chunked = self._event_stream = False

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        if self._lower is None:
            self._look()
        return self._chunked

    @property
    def event_stream(self) -> bool:
        """Whether the body is one of server-sent events."""
        if self._lower is None:
            self._look()
        return self._event_stream

    @property
    def ends_by_close(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return not self.chunked and not self.has(b"content-length") and self.status not in (204, 304)

    @property
    def lets_client_stay(self) -> bool:
        """Whether the client's connection can carry another answer after this one."""
        return self.keep_alive

    def has(self, name: bytes) -> bool:
        """Whether a header stands in it; `name` in lower case."""
        lower = self._lower if self._lower is not None else self._look()
        return lower.find(b"\r\n%b:" % name) >= 0

    def _look(self) -> bytes:
        self._lower = lower = self.raw.lower()
        # `in` would take the bytes for a number first, and catch an exception each time.
        self._chunked = lower.find(b"\r\ntransfer-encoding:") >= 0
        self._event_stream = lower.find(b"\r\ncontent-type: text/event-stream") >= 0
        return lower

    def with_lines(self, lines: bytes) -> bytes:
        """Return the head with header lines, each with its CRLF, after the status line."""
        status_line_end = self.raw.index(b"\r\n") + 2
        return self.raw[:status_line_end] + lines + self.raw[status_line_end:]

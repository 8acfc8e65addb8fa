"""Server-sent events out of bytes, without I/O. The chat and the benches read streams with it."""

from collections.abc import Iterator

DONE = b"[DONE]"


class SseParser:
    """Feed it what the socket gives, in any pieces; it yields the data of each complete event."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of every event that `chunk` completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not field and not value and self._data:
                yield b"\n".join(self._data)
                self._data = []

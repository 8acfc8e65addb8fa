"""Lets an event stream through in whole chunks, so that it can be ended in good order when its sender dies.

Relayed bytes keep the worker's own chunked framing. Were half a chunk passed on and the rest never came, no
error event could follow it. So a chunk that is not complete yet waits here. Nearly every read ends where an
event and its chunk end; the caller tests for that with `EVENT_END` and then needs no gate. No I/O.
"""

EVENT_END = b"\n\n\r\n"
"""How a read ends that completes an event (blank line) and the chunk around it (CRLF)."""
LONGEST_HELD_BYTES = 1024 * 1024
"""A chunk longer than this is let through as it comes; a stream that dies within it cannot be mended."""


class ChunkGate:
    """Holds back the incomplete chunk at the end of what was fed."""

    __slots__ = ("held", "mendable")

    def __init__(self) -> None:
        self.held = b""
        self.mendable = True
        """Whether what was let through ends at a chunk's end."""

    def feed(self, data: bytes) -> bytes:
        """Return what may go on now; `data` starts where the last feed, or the caller itself, ended."""
        if not self.mendable:
            return data
        held = self.held + data
        end = whole_chunks(held)
        if end is None or len(held) - end > LONGEST_HELD_BYTES:
            self.mendable = False
            self.held = b""
            return held
        self.held = held[end:]
        return held[:end]

    def flush(self) -> bytes:
        """Return what is held: the sender has completed its answer."""
        held, self.held = self.held, b""
        return held


def whole_chunks(data: bytes) -> int | None:
    """Return where the last whole chunk of `data` ends; None if `data` does not start at a chunk."""
    position = 0
    while True:
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            return position
        try:
            size = int(data[position:line_end].partition(b";")[0], 16)
        except ValueError:
            return None
        if size == 0:
            return position  # the end of the answer: passed on when the parser has seen all of it
        chunk_end = line_end + 2 + size + 2
        if chunk_end > len(data):
            return position
        position = chunk_end


def closing_chunks(event: bytes) -> bytes:
    """Return `event` as the last chunk of an answer, with the answer's end."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)

"""The line between ranks outside of steps: rings that wake sleepers, and the news that a rank has ended.

A star of TCP connections with rank 0 in the middle, and one thread a rank that reads. A process that dies,
however that happens, closes its connection; rank 0 tells the others which one it was. Nothing here decides:
the engine loop asks for `rung_wave` and `lost_rank`, and is woken when either changes.
"""

import contextlib
import logging
import selectors
import socket
import struct
import threading
from collections.abc import Callable

from .errors import GroupFailedError

logger = logging.getLogger(__name__)

_FRAME = struct.Struct("!cQ")
_RING, _LOST, _HELLO = b"r", b"l", b"h"


class Watch:
    """One rank's end of the line."""

    def __init__(self, rank: int, peers: dict[int, socket.socket], on_change: Callable[[], None]) -> None:
        """Take connections by rank: to all others on rank 0, to rank 0 elsewhere.

        on_change  wakes the loop; called on the thread that reads
        """
        self._rank = rank
        self._peers = peers
        self._on_change = on_change
        self._sending = threading.Lock()
        self._lost = threading.Event()
        self._closing, self._closed = socket.socketpair()
        self.rung_wave: int | None = None
        """The latest wave that another rank rang for."""
        self.lost_rank: int | None = None
        self._thread = threading.Thread(target=self._read, name="rank watch", daemon=True)
        self._thread.start()

    def ring(self, wave: int) -> None:
        """Wake all other ranks for a wave; one that has ended is noticed elsewhere."""
        self._tell(_RING, wave, to=list(self._peers))

    def wait_for_loss(self, timeout_s: float) -> int | None:
        """Return which rank has ended, given that one must have."""
        self._lost.wait(timeout_s)
        return self.lost_rank

    def close(self) -> None:
        """Hang up, which the others take as this rank's end."""
        self._closing.close()
        self._thread.join()
        self._closed.close()
        for connection in self._peers.values():
            connection.close()

    def _tell(self, kind: bytes, value: int, to: list[int]) -> None:
        frame = _FRAME.pack(kind, value)
        with self._sending:
            for rank in to:
                with contextlib.suppress(OSError):
                    self._peers[rank].sendall(frame)

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._closed, selectors.EVENT_READ, None)
            for rank, connection in self._peers.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    frame = _read_frame(self._peers[key.data])
                    if frame is None:
                        selector.unregister(key.fileobj)
                        self._on_lost(key.data)
                    else:
                        self._on_frame(key.data, *frame)

    def _on_frame(self, sender: int, kind: bytes, value: int) -> None:
        if kind == _LOST:
            self._on_lost(value)
        elif kind == _RING:
            if self._rank == 0:
                self._tell(_RING, value, to=[rank for rank in self._peers if rank != sender])
            self.rung_wave = value
            self._on_change()

    def _on_lost(self, rank: int) -> None:
        if self.lost_rank is None:
            self.lost_rank = rank
            if self._rank == 0:
                self._tell(_LOST, rank, to=[peer for peer in self._peers if peer != rank])
        self._lost.set()
        self._on_change()


def listen(host: str) -> socket.socket:
    """Open rank 0's listener on a free port."""
    return socket.create_server((host, 0))


def accept_peers(listener: socket.socket, size: int, timeout_s: float) -> dict[int, socket.socket]:
    """Wait until every other rank has called. Raises `GroupFailedError`."""
    peers: dict[int, socket.socket] = {}

    def missing() -> list[int]:
        return [rank for rank in range(1, size) if rank not in peers]

    listener.settimeout(timeout_s)
    try:
        while missing():
            connection, _ = listener.accept()
            connection.settimeout(timeout_s)
            frame = _read_frame(connection)
            if frame is None or frame[0] != _HELLO or frame[1] not in missing():
                logger.warning("someone called who is none of the ranks %s that are missing", missing())
                connection.close()
                continue
            connection.settimeout(None)
            peers[frame[1]] = connection
    except TimeoutError:
        raise GroupFailedError(f"ranks {missing()} did not call within {timeout_s} s") from None
    return peers


def call_rank_0(host: str, port: int, rank: int, timeout_s: float) -> socket.socket:
    """Connect to rank 0's listener."""
    connection = socket.create_connection((host, port), timeout_s)
    connection.settimeout(None)
    connection.sendall(_FRAME.pack(_HELLO, rank))
    return connection


def _read_frame(connection: socket.socket) -> tuple[bytes, int] | None:
    """Read one frame; None once the other side is gone."""
    try:
        received = connection.recv(_FRAME.size, socket.MSG_WAITALL)
    except OSError:
        return None
    if len(received) < _FRAME.size:
        return None
    kind, value = _FRAME.unpack(received)
    return kind, value

"""Reads over plain TCP sockets, for machines that have neither NIXL nor UCX. Needs a pool in host memory.

A thread serves each peer that reads us; a thread for each peer we read works its reads off in order. Bytes go
from pool to pool through the kernel, without another copy here.

    request    uint32 count, count x uint32 block ids               little-endian
    answer     the blocks' bytes in that order; a bad id closes the connection

A read in flight ends when its bytes are in place or its connection breaks, and not before. A host that
vanishes breaks nothing by itself, so the kernel asks after a silent one and breaks the connection to it; a
process that is merely stopped answers through its kernel and is waited for.
"""

import contextlib
import ctypes
import queue
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ..service import PoolRegion
from .base import ReadOutcome, TransportError, UnknownPeerError, check_blocks, check_regions

MAX_BUFFERS = 512
"""Buffers in one system call; Linux allows 1024."""

MAX_BLOCKS = 1 << 20
"""Blocks in one request."""

CONNECT_TIMEOUT_S = 5.0

KEEPALIVE_S = 5
"""A connection silent for so long is asked whether its host is there, again and again."""

VANISHED_S = 20
"""A host that has acknowledged nothing for so long is gone."""

_COUNT = struct.Struct("<I")


class SocketDescription(msgspec.Struct, frozen=True, kw_only=True):
    """Where the blocks of an incarnation are served."""

    incarnation: str
    host: str
    port: int


class _Read(NamedTuple):
    read_id: int
    remote: Sequence[int]
    local: Sequence[int]


class SocketTransport:
    """Serves the local pool on a port of `host` and reads peers' pools."""

    needs_polling = False

    def __init__(self, incarnation: str, wake: Callable[[], None], *, host: str) -> None:
        self._incarnation = incarnation
        self._wake = wake
        self._listener = socket.create_server((host, 0))
        self._region: PoolRegion | None = None
        self._pool = memoryview(b"")
        self._outcomes: deque[ReadOutcome] = deque()
        self._readers: dict[str, _PeerReader] = {}
        self._served = _OpenSockets()

    def register(self, region: PoolRegion) -> None:
        """Map the pool and begin to serve it."""
        if region.memory != "DRAM":
            raise TransportError(f"plain sockets need a pool in DRAM, this one is in {region.memory}")
        size = region.block_bytes * region.num_blocks
        self._region = region
        self._pool = memoryview((ctypes.c_char * size).from_address(region.address)).cast("B")
        threading.Thread(target=self._accept, name="kv-socket-accept", daemon=True).start()

    def describe(self) -> bytes:
        """Return the address blocks are served at."""
        host, port = self._listener.getsockname()[:2]
        return msgspec.msgpack.encode(SocketDescription(incarnation=self._incarnation, host=host, port=port))

    def add_peer(self, peer: str, description: bytes, region: PoolRegion) -> None:
        """Begin to connect to the peer; whether it answers shows with the first read."""
        check_regions(self._local, region)
        try:
            where = msgspec.msgpack.decode(description, type=SocketDescription)
        except msgspec.MsgspecError as error:
            raise TransportError(f"bad description: {error}") from error
        if where.incarnation != peer:
            raise TransportError(f"the description is of {where.incarnation}, not of {peer}")
        self._readers[peer] = _PeerReader(where, region, self._views, self._report)

    def remove_peer(self, peer: str) -> None:
        """Close the connection."""
        reader = self._readers.pop(peer, None)
        if reader is not None:
            reader.close()

    def read(
        self,
        read_id: int,
        peer: str,
        remote_block_ids: Sequence[int],
        local_block_ids: Sequence[int],
    ) -> None:
        """Queue the read behind the peer's others."""
        reader = self._readers.get(peer)
        if reader is None:
            raise UnknownPeerError(f"peer {peer} was not added")
        check_blocks(self._local, reader.region, local_block_ids, remote_block_ids)
        reader.reads.put(_Read(read_id, tuple(remote_block_ids), tuple(local_block_ids)))

    def poll(self) -> list[ReadOutcome]:
        """Return what the peers' threads have finished."""
        outcomes = []
        while self._outcomes:
            outcomes.append(self._outcomes.popleft())
        return outcomes

    def close(self) -> None:
        """Close every connection."""
        self._stop_listening()
        for peer in list(self._readers):
            self.remove_peer(peer)
        self._served.shut_down()

    def abandon(self) -> None:
        """Stop listening; the threads of reads in flight end with the process."""
        self._stop_listening()

    @property
    def _local(self) -> PoolRegion:
        assert self._region is not None, "register comes first"
        return self._region

    def _stop_listening(self) -> None:
        # Closing alone would leave `accept` asleep on Linux.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _report(self, outcome: ReadOutcome) -> None:
        self._outcomes.append(outcome)
        self._wake()

    def _views(self, block_ids: Sequence[int]) -> list[memoryview]:
        size = self._local.block_bytes
        return [self._pool[block_id * size : (block_id + 1) * size] for block_id in block_ids]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(
                target=self._serve, args=(connection,), name="kv-socket-serve", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._served.holding(connection):
            try:
                _prepare(connection)
                while (block_ids := _receive_request(connection)) is not None:
                    if max(block_ids) >= self._local.num_blocks:
                        return
                    _send_all(connection, self._views(block_ids))
            except OSError:  # the reader is gone: its side reports that
                return


class _PeerReader:
    """One connection to one peer and the thread that reads over it."""

    def __init__(
        self,
        where: SocketDescription,
        region: PoolRegion,
        views: Callable[[Sequence[int]], list[memoryview]],
        report: Callable[[ReadOutcome], None],
    ) -> None:
        self.region = region
        self.reads: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._where = where
        self._views = views
        self._report = report
        self._connection: socket.socket | None = None
        threading.Thread(target=self._run, name="kv-socket-read", daemon=True).start()

    def close(self) -> None:
        """End the thread; it has no read in flight."""
        self.reads.put(None)

    def _run(self) -> None:
        while (read := self.reads.get()) is not None:
            error = self._perform(read)
            self._report(ReadOutcome(read_id=read.read_id, done_at=time.monotonic(), post_s=0.0, error=error))
        self._disconnect()

    def _perform(self, read: _Read) -> str | None:
        """Return None when every byte is in place."""
        try:
            connection = self._connect()
            count = len(read.remote)
            connection.sendall(struct.pack(f"<{1 + count}I", count, *read.remote))
            _receive_all(connection, self._views(read.local))
        except OSError as error:
            self._disconnect()
            return f"{self._where.host}:{self._where.port}: {error}"
        return None

    def _connect(self) -> socket.socket:
        if self._connection is None:
            address = (self._where.host, self._where.port)
            self._connection = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
            self._connection.settimeout(None)
            _prepare(self._connection)
            # A request that nobody acknowledges. Not where blocks are sent: Linux would end that for a reader
            # that is merely stopped, and there the retries of TCP itself end it.
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_S * 1000)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _OpenSockets:
    """Connections being served, so that closing the transport ends them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    @contextlib.contextmanager
    def holding(self, connection: socket.socket) -> Iterator[None]:
        """Keep track of the connection inside the block, and close it after."""
        with self._lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def shut_down(self) -> None:
        """Make every serving thread see the end of its connection."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the peer may have closed it first
                    connection.shutdown(socket.SHUT_RDWR)


def _prepare(connection: socket.socket) -> None:
    """Send at once, and let a wait for bytes break with an `OSError` once the other host has vanished."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, VANISHED_S // KEEPALIVE_S)


def _receive_request(connection: socket.socket) -> tuple[int, ...] | None:
    """Return the block ids asked for, or None at the end of the connection."""
    header = bytearray(_COUNT.size)
    try:
        _receive_all(connection, [memoryview(header)])
    except ConnectionResetError:
        return None
    (count,) = _COUNT.unpack(header)
    if not 0 < count <= MAX_BLOCKS:
        raise ConnectionAbortedError(f"a request for {count} blocks")
    ids = bytearray(4 * count)
    _receive_all(connection, [memoryview(ids)])
    return struct.unpack(f"<{count}I", ids)


def _receive_all(connection: socket.socket, buffers: list[memoryview]) -> None:
    """Fill the buffers in order. Raises `ConnectionResetError` if the connection ends before."""
    while buffers:
        received = connection.recvmsg_into(buffers[:MAX_BUFFERS])[0]
        if received == 0:
            raise ConnectionResetError("the peer closed the connection")
        buffers = _rest(buffers, received)


def _send_all(connection: socket.socket, buffers: list[memoryview]) -> None:
    while buffers:
        buffers = _rest(buffers, connection.sendmsg(buffers[:MAX_BUFFERS]))


def _rest(buffers: list[memoryview], done: int) -> list[memoryview]:
    """Return what is left of the buffers after their first `done` bytes."""
    for index, buffer in enumerate(buffers):
        if done < len(buffer):
            return [buffer[done:], *buffers[index + 1 :]]
        done -= len(buffer)
    return []

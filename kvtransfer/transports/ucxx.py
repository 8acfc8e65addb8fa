"""Reads over UCXX (`ucxx-cu12`, UCX's Python binding), for machines without NIXL. Needs pools in host memory.

A thread of its own runs an event loop with all endpoints. Each message costs much there, so blocks travel
gathered into chunks of some MiB: gathered from the pool by the side that serves, scattered into it by the
side that reads.

    request    uint32 count, then count x uint32 block ids
    answer     the blocks in that order, in chunks; a bad id closes the endpoint

Importing this module sets UCX_* environment variables and loads a UCX, so a process uses either this or NIXL.
"""

import asyncio
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import ucxx
from ucxx.exceptions import UCXError

from ..service import PoolRegion
from .base import ReadOutcome, TransportError, UnknownPeerError, check_blocks, check_regions

CHUNK_BYTES = 4 * 1024 * 1024
CONNECT_TIMEOUT_S = 30.0
"""For UCXX's own exchange of greetings; the handshake above it has a shorter limit of its own."""
MAX_BLOCKS = 1 << 20
"""Blocks in one request."""


class UcxxDescription(msgspec.Struct, frozen=True, kw_only=True):
    """Where the blocks of an incarnation are served."""

    incarnation: str
    host: str
    port: int


@dataclass(slots=True)
class _Read:
    read_id: int
    remote: Sequence[int]
    local: Sequence[int]


@dataclass(slots=True)
class _Peer:
    where: UcxxDescription
    region: PoolRegion
    reads: "asyncio.Queue[_Read]"
    task: "asyncio.Task[None] | None" = None
    endpoint: Any = None


class UcxxTransport:
    """One UCXX worker, in a thread of its own."""

    needs_polling = False

    def __init__(self, incarnation: str, wake: Callable[[], None], *, host: str) -> None:
        self._incarnation = incarnation
        self._wake = wake
        self._host = host
        self._region: PoolRegion | None = None
        self._pool: np.ndarray[Any, np.dtype[np.uint8]]
        self._peers: dict[str, _Peer] = {}
        self._served: set[Any] = set()
        self._outcomes: deque[ReadOutcome] = deque()
        self._stop = asyncio.Event()
        self._unserved = asyncio.Event()
        self._unserved.set()
        self._tasks: asyncio.TaskGroup
        self._loop: asyncio.AbstractEventLoop
        port: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(port,), name="kv-ucxx", daemon=True)
        self._thread.start()
        self._port = port.result()

    def register(self, region: PoolRegion) -> None:
        """Map the pool; UCX registers memory as it is used."""
        if region.memory != "DRAM":
            raise TransportError(f"this transport needs a pool in DRAM, this one is in {region.memory}")
        size = region.block_bytes * region.num_blocks
        flat = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(region.address))
        self._pool = flat.reshape(region.num_blocks, region.block_bytes)
        self._region = region

    def describe(self) -> bytes:
        """Return the address blocks are served at."""
        where = UcxxDescription(incarnation=self._incarnation, host=self._host, port=self._port)
        return msgspec.msgpack.encode(where)

    def add_peer(self, peer: str, description: bytes, region: PoolRegion) -> None:
        """Note the peer; its endpoint is opened by the first read."""
        check_regions(self._local, region)
        try:
            where = msgspec.msgpack.decode(description, type=UcxxDescription)
        except msgspec.MsgspecError as error:
            raise TransportError(f"bad description: {error}") from error
        if where.incarnation != peer:
            raise TransportError(f"the description is of {where.incarnation}, not of {peer}")
        added = _Peer(where, region, asyncio.Queue())
        self._peers[peer] = added
        self._loop.call_soon_threadsafe(self._begin, added)

    def remove_peer(self, peer: str) -> None:
        """Close the endpoint."""
        known = self._peers.pop(peer, None)
        if known is not None:
            self._loop.call_soon_threadsafe(self._cancel, known)

    def read(
        self,
        read_id: int,
        peer: str,
        remote_block_ids: Sequence[int],
        local_block_ids: Sequence[int],
    ) -> None:
        """Queue the read behind the peer's others."""
        known = self._peers.get(peer)
        if known is None:
            raise UnknownPeerError(f"peer {peer} was not added")
        check_blocks(self._local, known.region, local_block_ids, remote_block_ids)
        read = _Read(read_id, tuple(remote_block_ids), tuple(local_block_ids))
        self._loop.call_soon_threadsafe(known.reads.put_nowait, read)

    def poll(self) -> list[ReadOutcome]:
        """Return what the event loop has finished."""
        outcomes = []
        while self._outcomes:
            outcomes.append(self._outcomes.popleft())
        return outcomes

    def close(self) -> None:
        """Close every endpoint and end the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def abandon(self) -> None:
        """Leave the endpoints to the process; only the thread that would keep it from ending is stopped."""
        ucxx.stop_notifier_thread()

    @property
    def _local(self) -> PoolRegion:
        assert self._region is not None, "register comes first"
        return self._region

    def _run(self, port: "Future[int]") -> None:
        try:
            asyncio.run(self._main(port))
        except Exception as error:
            if port.done():
                raise
            port.set_exception(TransportError(f"UCXX: {type(error).__name__}: {error}"))

    async def _main(self, port: "Future[int]") -> None:
        self._loop = asyncio.get_running_loop()
        # Futures that the library completes: without them it spins while anything is awaited.
        ucxx.init(progress_mode="thread", enable_python_future=True)
        listener = ucxx.create_listener(self._serve, 0, connect_timeout=CONNECT_TIMEOUT_S)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            port.set_result(listener.port)
            await self._stop.wait()
            for peer in self._peers.values():
                self._cancel(peer)
        for endpoint in list(self._served):
            endpoint.abort()
        await self._unserved.wait()
        listener.close()
        ucxx.stop_notifier_thread()

    def _begin(self, peer: _Peer) -> None:
        peer.task = self._tasks.create_task(self._read_on(peer), name=f"kv-ucxx-{peer.where.incarnation}")

    def _cancel(self, peer: _Peer) -> None:
        if peer.task is not None:
            peer.task.cancel()

    async def _read_on(self, peer: _Peer) -> None:
        """Work a peer's reads off, in order, until cancelled with none in flight."""
        try:
            while True:
                read = await peer.reads.get()
                error = await self._perform(peer, read)
                self._outcomes.append(
                    ReadOutcome(read_id=read.read_id, done_at=time.monotonic(), post_s=0.0, error=error)
                )
                self._wake()
        finally:
            if peer.endpoint is not None:
                peer.endpoint.abort()

    async def _perform(self, peer: _Peer, read: _Read) -> str | None:
        """Return None when every byte is in place."""
        where = peer.where
        try:
            if peer.endpoint is None:
                peer.endpoint = await ucxx.create_endpoint(
                    where.host, where.port, connect_timeout=CONNECT_TIMEOUT_S
                )
            await peer.endpoint.send(np.array([len(read.remote)], dtype=np.uint32))
            await peer.endpoint.send(np.array(read.remote, dtype=np.uint32))
            for block_ids in _chunks(np.array(read.local, dtype=np.int64), self._local.block_bytes):
                staging = np.empty((len(block_ids), self._local.block_bytes), dtype=np.uint8)
                await peer.endpoint.recv(staging)
                self._pool[block_ids] = staging
        except (UCXError, OSError, TimeoutError) as error:
            if peer.endpoint is not None:
                peer.endpoint.abort()
                peer.endpoint = None
            return f"{where.host}:{where.port}: {type(error).__name__}: {error}"
        return None

    async def _serve(self, endpoint: Any) -> None:
        """Answer one reader until it is gone."""
        self._served.add(endpoint)
        self._unserved.clear()
        try:
            while await self._answer(endpoint):
                pass
        except (UCXError, OSError):  # the reader is gone: its side reports that
            pass
        finally:
            self._served.discard(endpoint)
            endpoint.abort()
            if not self._served:
                self._unserved.set()

    async def _answer(self, endpoint: Any) -> bool:
        """Send the blocks of one request; False for one that cannot be answered."""
        count = np.zeros(1, dtype=np.uint32)
        await endpoint.recv(count)
        if not 0 < count[0] <= MAX_BLOCKS:
            return False
        ids = np.empty(count[0], dtype=np.uint32)
        await endpoint.recv(ids)
        if ids.max() >= self._local.num_blocks:
            return False
        for block_ids in _chunks(ids, self._local.block_bytes):
            await endpoint.send(self._pool[block_ids])
        return True


def _chunks(block_ids: "np.ndarray[Any, Any]", block_bytes: int) -> list["np.ndarray[Any, Any]"]:
    """Cut block ids into runs of about `CHUNK_BYTES`; both sides cut alike."""
    size = max(1, CHUNK_BYTES // block_bytes)
    return [block_ids[start : start + size] for start in range(0, len(block_ids), size)]

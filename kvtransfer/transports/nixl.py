"""Reads through NIXL (UCX backend): RDMA, NVLink, shared-memory copies or TCP, whatever UCX finds.

The whole pool is prepared once as strided descriptors and then indexed. NIXL's own progress thread is off: it
spins. `poll` drives both our reads and, where the lanes need the passive side (TCP, and every first contact),
the peers' reads of us.

Never done here, because it was seen to write into reused memory or to kill the peer: releasing a transfer
that is in progress, and destroying an agent while one is.
"""

import ctypes
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nixl import _api as api
from nixl import _bindings as bindings

from ..service import PoolRegion
from .base import (
    PeerLostError,
    ReadOutcome,
    TransportError,
    TransportUnavailableError,
    UnknownPeerError,
    check_blocks,
    check_regions,
)

logger = logging.getLogger(__name__)

# The bindings give their exceptions no common base.
NIXL_ERRORS: tuple[type[Exception], ...] = (
    bindings.nixlBackendError,
    bindings.nixlCancelledError,
    bindings.nixlInvalidParamError,
    bindings.nixlMismatchError,
    bindings.nixlNoTelemetryError,
    bindings.nixlNotAllowedError,
    bindings.nixlNotFoundError,
    bindings.nixlNotPostedError,
    bindings.nixlNotSupportedError,
    bindings.nixlRemoteDisconnectError,
    bindings.nixlRepostActiveError,
    bindings.nixlUnknownError,
)


@dataclass(slots=True)
class _Flight:
    handle: Any
    post_s: float
    posted: bool = False


@dataclass(slots=True)
class _Peer:
    blocks: Any
    """Prepared descriptors of the peer's pool."""
    region: PoolRegion


class NixlTransport:
    """One NIXL agent, named after this process's incarnation."""

    needs_polling = True

    def __init__(self, incarnation: str, wake: Callable[[], None]) -> None:
        """Create the agent. Raises `TransportUnavailableError` if its UCX backend cannot run here."""
        del wake  # NIXL has nothing that could call it
        logging.getLogger("nixl").setLevel(logging.WARNING)
        config = api.nixl_agent_config(
            enable_prog_thread=False, backends=["UCX"], sync_mode=api.nixl_thread_sync_t.NIXL_THREAD_SYNC_NONE
        )
        try:
            self._agent = api.nixl_agent(incarnation, config)
        except NIXL_ERRORS as error:
            raise TransportUnavailableError(f"NIXL agent: {type(error).__name__}: {error}") from error
        self._region: PoolRegion | None = None
        self._registered: Any = None
        self._blocks: Any = None
        self._peers: dict[str, _Peer] = {}
        self._flights: dict[int, _Flight] = {}
        self._outcomes: list[ReadOutcome] = []

    def register(self, region: PoolRegion) -> None:
        """Register the pool and prepare a descriptor for each block."""
        size = region.block_bytes * region.num_blocks
        run = [(region.address, size, region.device_id, "")]
        self._registered = self._call(self._agent.register_memory, run, region.memory)
        self._blocks = self._prepare("NIXL_INIT_AGENT", region)
        self._region = region

    def describe(self) -> bytes:
        """Return the agent's metadata."""
        metadata = self._call(self._agent.get_agent_metadata)
        assert isinstance(metadata, bytes)
        return metadata

    def add_peer(self, peer: str, description: bytes, region: PoolRegion) -> None:
        """Add the peer's agent and prepare a descriptor for each of its blocks."""
        check_regions(self._local, region)
        name = self._call(self._agent.add_remote_agent, description)
        name = name.decode() if isinstance(name, bytes) else name
        if name != peer:
            self._call(self._agent.remove_remote_agent, name)
            raise TransportError(f"the metadata is of agent {name}, not of {peer}")
        self._peers[peer] = _Peer(self._prepare(peer, region), region)

    def remove_peer(self, peer: str) -> None:
        """Drop the prepared descriptors, then the agent."""
        known = self._peers.pop(peer, None)
        if known is None:
            return
        self._call(known.blocks.release)
        self._call(self._agent.remove_remote_agent, peer)

    def read(
        self,
        read_id: int,
        peer: str,
        remote_block_ids: Sequence[int],
        local_block_ids: Sequence[int],
    ) -> None:
        """Post one READ; over shared memory it is done when this returns."""
        known = self._peers.get(peer)
        if known is None:
            raise UnknownPeerError(f"peer {peer} was not added")
        check_blocks(self._local, known.region, local_block_ids, remote_block_ids)
        started = time.monotonic()
        local = np.asarray(local_block_ids, dtype=np.int32)
        remote = np.asarray(remote_block_ids, dtype=np.int32)
        handle = self._call(self._agent.make_prepped_xfer, "READ", self._blocks, local, known.blocks, remote)
        self._flights[read_id] = flight = _Flight(handle, 0.0)
        state = self._state(self._agent.transfer, handle)
        flight.post_s = time.monotonic() - started
        self._conclude(read_id, flight, state)
        flight.posted = True

    def poll(self) -> list[ReadOutcome]:
        """Look at every read in flight once, and let UCX answer peers."""
        for read_id, flight in list(self._flights.items()):
            self._conclude(read_id, flight, self._state(self._agent.check_xfer_state, flight.handle))
        self._call(self._agent.get_new_notifs)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def close(self) -> None:
        """Release descriptors, peers and the registration, then the agent itself."""
        assert not self._flights, "closed with reads in flight"
        for peer in list(self._peers):
            self.remove_peer(peer)
        if self._registered is not None:
            self._call(self._blocks.release)
            self._call(self._agent.deregister_memory, self._registered)
        del self._agent

    def abandon(self) -> None:
        """Keep agent and handles alive to the end of the process, past interpreter shutdown too."""
        for kept in (self._agent, *(flight.handle for flight in self._flights.values())):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))

    @property
    def _local(self) -> PoolRegion:
        assert self._region is not None, "register comes first"
        return self._region

    def _prepare(self, owner: str, region: PoolRegion) -> Any:
        size = region.block_bytes
        strided = [[region.address, size, region.device_id, size, region.num_blocks]]
        array = np.array(strided, dtype=np.uint64)
        return self._call(self._agent.prep_xfer_dlist, owner, array, region.memory)

    def _state(self, ask: Callable[[Any], str], handle: Any) -> str:
        """Return DONE, PROC, or what went wrong. A lost peer raises in NIXL; both mean: terminal."""
        try:
            return ask(handle)
        except NIXL_ERRORS as error:
            return f"{type(error).__name__}: {error}"

    def _conclude(self, read_id: int, flight: _Flight, state: str) -> None:
        if state == "PROC":
            return
        done_at = time.monotonic()
        try:
            self._agent.release_xfer_handle(flight.handle)
        except NIXL_ERRORS as error:
            # Then it is not terminal after all: it stays in flight and is looked at again.
            logger.warning("read %d: the transfer says %s but is not released: %s", read_id, state, error)
            return
        del self._flights[read_id]
        self._outcomes.append(
            ReadOutcome(
                read_id=read_id,
                done_at=done_at,
                post_s=flight.post_s,
                done_at_post=not flight.posted,
                error=None if state == "DONE" else state,
            )
        )

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except bindings.nixlRemoteDisconnectError as error:
            raise PeerLostError(str(error)) from error
        except NIXL_ERRORS as error:
            raise TransportError(f"NIXL {function.__name__}: {type(error).__name__}: {error}") from error

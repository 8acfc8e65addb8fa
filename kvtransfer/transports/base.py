"""What a transport is: the one thing that differs between NIXL, UCXX and plain sockets.

A transport reads blocks of a peer's pool into the local pool. All its methods are called from one thread,
the transfer thread (`transfer_thread.py`); none blocks on the network, except that `read` may copy the
bytes itself where the memory is reachable.

    register(region)             once: this is the local pool
    describe() -> bytes          what a peer needs for `add_peer`
    add_peer / remove_peer       by incarnation; a removed peer has no read in flight
    read(id, peer, ids, ids)     post; refuses bad block ids and unknown peers before anything moves
    poll() -> outcomes           reads that became terminal; also lets peers read us
    close()                      only with nothing in flight

A read in flight is never given up, released or waited for: it stays until `poll` reports it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ..service import PoolRegion


class TransportError(Exception):
    """A transport refuses or fails; the message says why."""


class TransportUnavailableError(TransportError):
    """The library behind a transport is not installed, or cannot run here."""


class UnknownPeerError(TransportError):
    """No such peer was added."""


class BadBlocksError(TransportError):
    """Block ids outside a pool, unequal counts, or none at all."""


class PeerLostError(TransportError):
    """The peer's process is gone or cannot be reached."""


class ReadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A read is terminal: it no longer touches the local pool."""

    read_id: int
    done_at: float
    """When it was seen, on this process's monotonic clock."""
    post_s: float
    """Seconds that posting took."""
    done_at_post: bool = False
    """It was done when posting returned, so the peer had to do nothing for it."""
    error: str | None = None
    """None: every byte is in place."""


class Transport(Protocol):
    """See the module's text."""

    needs_polling: bool
    """True: nothing moves unless `poll` is called. False: `wake` is called when there is news."""

    def register(self, region: PoolRegion) -> None:
        """Make the local pool reachable; it must stay mapped as long as the process lives."""

    def describe(self) -> bytes:
        """Return what peers need to read the local pool."""

    def add_peer(self, peer: str, description: bytes, region: PoolRegion) -> None:
        """Make a peer's pool readable. Raises `TransportError` for a description that is not understood."""

    def remove_peer(self, peer: str) -> None:
        """Forget a peer; an unknown one is no error."""

    def read(
        self,
        read_id: int,
        peer: str,
        remote_block_ids: Sequence[int],
        local_block_ids: Sequence[int],
    ) -> None:
        """Post a read of `remote_block_ids[i]` of the peer into `local_block_ids[i]`.

        Raises `UnknownPeerError`, `BadBlocksError` or `PeerLostError`: then nothing was posted.
        """

    def poll(self) -> list[ReadOutcome]:
        """Return the reads that became terminal since the last call."""

    def close(self) -> None:
        """Give everything back; no read is in flight."""

    def abandon(self) -> None:
        """Leave everything as it is until the process ends, because reads are still in flight."""


TransportFactory = Callable[[str, Callable[[], None]], Transport]
"""Makes a transport from this process's incarnation and `wake`, a thread-safe call for the owner to poll."""


def check_blocks(
    local: PoolRegion, remote: PoolRegion, local_block_ids: Sequence[int], remote_block_ids: Sequence[int]
) -> None:
    """Raise `BadBlocksError` unless both lists name equally many blocks, at least one, inside their pools."""
    if len(local_block_ids) != len(remote_block_ids):
        raise BadBlocksError(f"{len(remote_block_ids)} remote blocks for {len(local_block_ids)} local ones")
    if not local_block_ids:
        raise BadBlocksError("no blocks to read")
    for side, region, ids in (("local", local, local_block_ids), ("remote", remote, remote_block_ids)):
        if min(ids) < 0 or max(ids) >= region.num_blocks:
            raise BadBlocksError(f"{side} block ids {min(ids)}..{max(ids)} of a pool of {region.num_blocks}")


def check_regions(local: PoolRegion, remote: PoolRegion) -> None:
    """Raise `TransportError` unless a remote block fits a local one exactly."""
    if local.block_bytes != remote.block_bytes:
        raise TransportError(f"block_bytes: {local.block_bytes} here, {remote.block_bytes} there")

"""What an engine asks of the transfer side, and the events it gets back: the seam between the two.

The engine loop calls `TransferService` from its own thread and never waits: every answer comes back as a
`TransferEvent` through the callback given at start, which the service calls from a thread of its own.
The engine owns block accounting; the service owns leases, grants, handles and peers.

Rules the two sides keep:
- Blocks of an offer stay in use until `LeaseEnded` names the lease.
- `release` of a lease that a consumer has been granted takes effect at that consumer's acknowledgement or
  at expiry: the consumer may be reading.
- Destination blocks of a pull belong to the transfer until `PullFinished`, or until `PullFailed` with
  `blocks_reusable`, or until `QuarantineLifted`.
"""

import enum
from collections.abc import Callable
from typing import Protocol

import msgspec


class PoolRegion(msgspec.Struct, frozen=True, kw_only=True):
    """The registered memory of a KV pool: `num_blocks` runs of `block_bytes` from `address`."""

    address: int
    block_bytes: int
    num_blocks: int
    memory: str = "DRAM"
    """"DRAM" or "VRAM", NIXL's names."""
    device_id: int = 0


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """These blocks of the local pool may be read by `consumers` peers."""

    lease_id: str
    block_ids: tuple[int, ...]
    consumers: int = 1


class Pull(msgspec.Struct, frozen=True, kw_only=True):
    """Read `remote_block_ids[i]` of a peer into `local_block_ids[i]`; with no blocks, only acknowledge."""

    pull_id: str
    """Unique in this process: names the pull in events."""
    incarnation: str
    host: str
    port: int
    lease_id: str
    remote_block_ids: tuple[int, ...]
    local_block_ids: tuple[int, ...]


class LeaseEnd(enum.Enum):
    """Why the blocks of an offer are free again."""

    ACKNOWLEDGED = "acknowledged"
    EXPIRED = "expired"
    RELEASED = "released"


class PullFailure(enum.Enum):
    """Why a pull gave no usable blocks; a low-cardinality label for metrics."""

    UNREACHABLE = "unreachable"
    STALE_INCARNATION = "stale_incarnation"
    INCOMPATIBLE = "incompatible"
    LEASE_UNKNOWN = "lease_unknown"
    LEASE_TOO_LATE = "lease_too_late"
    PEER_LOST = "peer_lost"
    CHECKSUM = "checksum"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class LeaseEnded(msgspec.Struct, frozen=True, kw_only=True):
    """No peer will read the offer's blocks any more."""

    lease_id: str
    how: LeaseEnd


class PullFinished(msgspec.Struct, frozen=True, kw_only=True):
    """All blocks of a pull are verified and in place."""

    pull_id: str
    kv_bytes: int
    transfer_s: float


class PullFailed(msgspec.Struct, frozen=True, kw_only=True):
    """A pull gave nothing that may be used."""

    pull_id: str
    reason: PullFailure
    message: str
    blocks_reusable: bool
    """False: the transfer may still write; keep the blocks quarantined until `QuarantineLifted`."""


class QuarantineLifted(msgspec.Struct, frozen=True, kw_only=True):
    """The transfer of a failed pull is terminal: its destination blocks may be reused."""

    pull_id: str


class PeerConnected(msgspec.Struct, frozen=True, kw_only=True):
    """A handshake asked for by `connect` is done and one block was read as a warm-up."""

    call_id: str
    incarnation: str


class PeerRefused(msgspec.Struct, frozen=True, kw_only=True):
    """A handshake asked for by `connect` failed, and why."""

    call_id: str
    message: str


TransferEvent = LeaseEnded | PullFinished | PullFailed | QuarantineLifted | PeerConnected | PeerRefused


class TransferCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Open entries of the service's tables: all zero when nothing is in flight."""

    leases: int
    pulls: int
    quarantined_pulls: int


class TransferService(Protocol):
    """Thread-safe; no method blocks on the network except `start` and `close`."""

    @property
    def incarnation(self) -> str:
        """Fresh id of this process; names the agent and stands in every message."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the control channel, known once started."""

    def start(self, on_event: Callable[[TransferEvent], None]) -> None:
        """Register the pool, open the control channel and begin to report events."""

    def close(self) -> None:
        """Stop serving; transfers in flight are waited for within the configured grace."""

    def offer(self, offer: Offer) -> None:
        """Hold the blocks under a lease; its time starts now."""

    def release(self, lease_id: str) -> None:
        """End a lease early; an unknown or ended lease is no error."""

    def pull(self, pull: Pull) -> None:
        """Start a pull; exactly one `PullFinished` or `PullFailed` follows."""

    def cancel_pull(self, pull_id: str) -> None:
        """Give a pull up: `PullFailed` follows unless it already ended."""

    def connect(self, call_id: str, host: str, port: int) -> None:
        """Shake hands with a peer's control channel; `PeerConnected` or `PeerRefused` follows."""

    def peers(self) -> list[str]:
        """Incarnations whose handshake is done and whose liveness holds."""

    def counts(self) -> TransferCounts:
        """Sizes of the tables, for the self-check and metrics."""

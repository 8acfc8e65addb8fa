"""Which blocks are held for which lease, from the offer until `LeaseEnded`. Pure bookkeeping.

The lease's time and its grants are the transfer service's affair; here stands only what the pool must not
forget: the references. Called by the prefill scheduler.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeldBlocks:
    """Blocks whose references an ended request passed on to its lease."""

    lease_id: str
    external_id: str
    blocks: list[int]


class LeaseTable:
    """All leases that have not ended."""

    def __init__(self) -> None:
        self._held: dict[str, HeldBlocks] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, lease_id: str) -> bool:
        return lease_id in self._held

    def hold(self, held: HeldBlocks) -> None:
        """Keep the blocks until the lease ends."""
        assert held.lease_id not in self._held, f"lease {held.lease_id} exists"
        self._held[held.lease_id] = held

    def end(self, lease_id: str) -> list[int]:
        """Return the blocks of a lease that ended, to be released. Raises `KeyError` for an unknown one."""
        return self._held.pop(lease_id).blocks

    def of(self, external_id: str) -> list[str]:
        """Return the leases of the requests with this external id."""
        return [lease.lease_id for lease in self._held.values() if lease.external_id == external_id]

    def holders(self) -> list[list[int]]:
        """Return the block lists that hold references."""
        return [lease.blocks for lease in self._held.values()]

"""A transport with a pool, for `child_process.py`."""

import os
import time

import numpy as np

from baton.kvtransfer.service import PoolRegion
from baton.kvtransfer.transports import transport_factory
from baton.kvtransfer.transports.base import ReadOutcome


class Child:
    """Carries orders out, and polls between them as the owner of a transport does."""

    def __init__(self, transport: str, num_blocks: int, block_bytes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._pool = rng.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
        self._region = PoolRegion(
            address=self._pool.ctypes.data, block_bytes=block_bytes, num_blocks=num_blocks
        )
        self._incarnation = os.urandom(8).hex()
        self._transport = transport_factory(transport, host="127.0.0.1")(self._incarnation, lambda: None)
        self._transport.register(self._region)
        self._outcomes: dict[int, ReadOutcome] = {}

    def describe(self) -> tuple[str, bytes, PoolRegion]:
        return self._incarnation, self._transport.describe(), self._region

    def add_peer(self, peer: str, description: bytes, region: PoolRegion) -> None:
        self._transport.add_peer(peer, description, region)

    def remove_peer(self, peer: str) -> None:
        self._transport.remove_peer(peer)

    def read(self, read_id: int, peer: str, remote: list[int], local: list[int]) -> None:
        self._transport.read(read_id, peer, remote, local)

    def outcome(self, read_id: int, timeout_s: float) -> ReadOutcome | None:
        """Return a read's outcome, or None if it is not terminal in time."""
        give_up_at = time.monotonic() + timeout_s
        while read_id not in self._outcomes and time.monotonic() < give_up_at:
            self.poll()
        return self._outcomes.pop(read_id, None)

    def blocks(self, block_ids: list[int]) -> bytes:
        return self._pool[block_ids].tobytes()

    def poll(self) -> int:
        outcomes = self._transport.poll()
        self._outcomes.update({outcome.read_id: outcome for outcome in outcomes})
        return len(outcomes)

    def close(self) -> None:
        self._transport.close()

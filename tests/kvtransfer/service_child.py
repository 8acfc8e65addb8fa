"""A worker's transfer service with its pool and events, for `child_process.py`."""

import os
import queue

import numpy as np

from baton.kvtransfer.layout import KvLayout
from baton.kvtransfer.metrics import TransferMetrics
from baton.kvtransfer.service import Offer, PoolRegion, Pull, TransferCounts, TransferEvent
from baton.kvtransfer.transfer_service import ControlledTransferService, ServiceSettings


class Child:
    """Carries orders out; the service runs in threads of its own."""

    def __init__(
        self, transport: str, layout: KvLayout, num_blocks: int, seed: int, settings: dict[str, float]
    ) -> None:
        rng = np.random.default_rng(seed)
        self._pool = rng.integers(0, 256, (num_blocks, layout.block_bytes), dtype=np.uint8)
        region = PoolRegion(
            address=self._pool.ctypes.data, block_bytes=layout.block_bytes, num_blocks=num_blocks
        )
        self._events: queue.SimpleQueue[TransferEvent] = queue.SimpleQueue()
        self._service = ControlledTransferService(
            settings=ServiceSettings(transport=transport, **settings), layout=layout, region=region
        )
        self._service.start(self._events.put)

    def whoami(self) -> tuple[str, str, int]:
        return self._service.incarnation, *self._service.address

    def offer(self, offer: Offer) -> None:
        self._service.offer(offer)

    def pull(self, pull: Pull) -> None:
        self._service.pull(pull)

    def connect(self, host: str, port: int) -> None:
        self._service.connect("connect", host, port)

    def event(self, timeout_s: float) -> TransferEvent | None:
        """Return the next event, or None if there is none in time."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def blocks(self, block_ids: list[int]) -> bytes:
        return self._pool[block_ids].tobytes()

    def peers(self) -> list[str]:
        return self._service.peers()

    def counts(self) -> TransferCounts:
        return self._service.counts()

    def metrics(self) -> TransferMetrics:
        return self._service.metrics()

    def cpu_s(self) -> float:
        """CPU seconds of this process so far."""
        times = os.times()
        return times.user + times.system

    def poll(self) -> None:
        """Nothing: the service needs no help."""

    def close(self) -> None:
        self._service.close()

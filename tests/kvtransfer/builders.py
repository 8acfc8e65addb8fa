"""Small pools, layouts and services of the KV transfer tests."""

import queue

import numpy as np
from numpy.typing import NDArray

from baton.kvtransfer.layout import KvFormat, KvLayout
from baton.kvtransfer.service import PoolRegion, TransferEvent
from baton.kvtransfer.transfer_service import ControlledTransferService, ServiceSettings

LAYOUT = KvLayout(
    format=KvFormat.MLA,
    dtype="float32",
    num_layers=2,
    kv_heads=1,
    values_per_token=24,
    block_tokens=4,
    model_digest="tiny",
)
WAIT_S = 60.0
"""Far more than anything here takes; a test that gets there has failed."""


def random_pool(num_blocks: int, seed: int, block_bytes: int = LAYOUT.block_bytes) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)


def region_of(pool: NDArray[np.uint8]) -> PoolRegion:
    return PoolRegion(address=pool.ctypes.data, block_bytes=pool.shape[1], num_blocks=pool.shape[0])


class Worker:
    """A transfer service with its pool, and its events as they come."""

    def __init__(
        self, *, num_blocks: int, seed: int, layout: KvLayout = LAYOUT, settings: ServiceSettings
    ) -> None:
        self.pool = random_pool(num_blocks, seed, layout.block_bytes)
        self.events: queue.SimpleQueue[TransferEvent] = queue.SimpleQueue()
        self.service = ControlledTransferService(
            settings=settings, layout=layout, region=region_of(self.pool)
        )
        self.service.start(self.events.put)

    def event(self) -> TransferEvent:
        return self.events.get(timeout=WAIT_S)

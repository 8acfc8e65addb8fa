"""CRC-32 of KV blocks, read in place from a pool in host memory. Called off the event loop: it takes time."""

import ctypes
import zlib
from collections.abc import Sequence

from .service import PoolRegion


class BlockChecksums:
    """Checksums of one pool's blocks."""

    def __init__(self, region: PoolRegion) -> None:
        """Map the pool. Raises `ValueError` for memory that the CPU cannot read."""
        if region.memory != "DRAM":
            raise ValueError(f"block checksums need a pool in DRAM, this one is in {region.memory}")
        size = region.block_bytes * region.num_blocks
        self._block_bytes = region.block_bytes
        self._num_blocks = region.num_blocks
        self._pool = memoryview((ctypes.c_char * size).from_address(region.address)).cast("B")

    def crcs(self, block_ids: Sequence[int]) -> tuple[int, ...]:
        """Return each block's CRC-32, in order. Raises `ValueError` for a block that is not in the pool."""
        return tuple(zlib.crc32(self._block(block_id)) for block_id in block_ids)

    def mismatches(self, block_ids: Sequence[int], expected: Sequence[int]) -> list[int]:
        """Return the blocks whose checksum is not the expected one; all of them when the counts differ."""
        if len(expected) != len(block_ids):
            return list(block_ids)
        actual = self.crcs(block_ids)
        return [block for block, have, want in zip(block_ids, actual, expected, strict=True) if have != want]

    def _block(self, block_id: int) -> memoryview:
        if not 0 <= block_id < self._num_blocks:
            raise ValueError(f"block {block_id} is not in a pool of {self._num_blocks}")
        start = block_id * self._block_bytes
        return self._pool[start : start + self._block_bytes]

"""Checksums are of the pool's bytes as they are now, and only of pools the CPU can read."""

import zlib

import msgspec
import pytest

from baton.kvtransfer.checksum import BlockChecksums

from .builders import random_pool, region_of

POOL = random_pool(6, seed=1)


def test_a_checksum_is_the_crc32_of_the_blocks_bytes() -> None:
    checksums = BlockChecksums(region_of(POOL))

    assert checksums.crcs([4, 0]) == (zlib.crc32(POOL[4].tobytes()), zlib.crc32(POOL[0].tobytes()))


def test_a_flipped_bit_is_found_in_its_block() -> None:
    pool = POOL.copy()
    checksums = BlockChecksums(region_of(pool))
    before = checksums.crcs([1, 2, 3])
    pool[2, -1] ^= 1

    assert checksums.mismatches([1, 2, 3], before) == [2]


def test_a_missing_checksum_fails_all_blocks() -> None:
    checksums = BlockChecksums(region_of(POOL))

    assert checksums.mismatches([1, 2], checksums.crcs([1])) == [1, 2]


@pytest.mark.parametrize("block", [-1, 6])
def test_a_block_outside_the_pool_is_refused(block: int) -> None:
    with pytest.raises(ValueError, match=f"block {block} is not in a pool of 6"):
        BlockChecksums(region_of(POOL)).crcs([block])


def test_device_memory_is_refused() -> None:
    region = msgspec.structs.replace(region_of(POOL), memory="VRAM")

    with pytest.raises(ValueError, match="need a pool in DRAM, this one is in VRAM"):
        BlockChecksums(region)

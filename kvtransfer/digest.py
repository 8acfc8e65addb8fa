"""Digests of token ids: one for a whole prompt, and the chained hashes that name full KV blocks.

Both read every token id as a little-endian 64-bit integer, so equal tokens give equal digests on every
worker. Called by the engine (prefix cache, hand-over check) and safe to import in the proxy.
"""

import sys
from array import array
from collections.abc import Sequence

import xxhash


def token_digest(token_ids: Sequence[int]) -> str:
    """Return the hexadecimal xxh3-128 of the token ids: equal only for the same tokens."""
    return xxhash.xxh3_128_hexdigest(_little_endian(token_ids))


def block_hashes(token_ids: Sequence[int], block_tokens: int, salt: str = "") -> list[bytes]:
    """Return one 16-byte hash for each full block of `block_tokens` ids; a partial last block has none.

    `hash[i] = xxh3_128(hash[i - 1] + ids of block i)`, with `hash[-1] = xxh3_128(salt)`: a block's hash
    stands for the whole prefix that ends with it, and prompts under different salts share no block.
    """
    data = memoryview(_little_endian(token_ids))
    block_bytes = 8 * block_tokens
    parent = xxhash.xxh3_128_digest(salt.encode())
    hashes = []
    for end in range(block_bytes, len(data) + 1, block_bytes):
        parent = _link(parent, data[end - block_bytes : end])
        hashes.append(parent)
    return hashes


def next_block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Return the hash of the full block after the block `parent`: one more link of `block_hashes`."""
    return _link(parent, _little_endian(token_ids))


def event_hash(block_hash: bytes) -> int:
    """Return a block hash as KV events carry it: its low 64 bits, unsigned."""
    return int.from_bytes(block_hash[-8:], "big")


def _link(parent: bytes, block: bytes | memoryview) -> bytes:
    hasher = xxhash.xxh3_128(parent)
    hasher.update(block)
    return hasher.digest()


def _little_endian(token_ids: Sequence[int]) -> bytes:
    ids = array("q", token_ids)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()

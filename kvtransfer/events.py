"""KV events: which blocks a worker's prefix cache holds, in vLLM's schema, so that any router can follow.

A batch is the array `[ts, [events], data_parallel_rank]`; an event is a map tagged `type`, with defaults
left out. Block hashes are the low 64 bits of the cache's digests (`digest.event_hash`). Encoding only;
publishing is `event_publisher.py`, and a subscriber (the proxy) decodes with `decode_batch`.
"""

from typing import Any

import msgspec

MEDIUM_GPU = "GPU"
"""What vLLM calls the memory that attention reads, on a CPU too."""


class BlockStored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """Consecutive full blocks entered the cache: `token_ids` holds `block_size` ids for each hash."""

    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    """Hash of the block before the first; None at the start of a prompt."""
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    """One entry for each block: what besides tokens went into its hash, e.g. the cache salt."""
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None


class BlockRemoved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """Blocks left the cache."""

    block_hashes: list[int | bytes]
    medium: str | None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """The cache is empty."""


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared


class KvEventBatch(msgspec.Struct, frozen=True, kw_only=True, array_like=True, omit_defaults=True):
    """What one engine step did to the cache."""

    ts: float
    """Seconds since the epoch."""
    events: list[KvEvent]
    data_parallel_rank: int | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(KvEventBatch)


def encode_batch(batch: KvEventBatch) -> bytes:
    """Return the payload of one message."""
    return _encoder.encode(batch)


def decode_batch(payload: bytes) -> KvEventBatch:
    """Return the batch of a payload, from Baton or vLLM. Raises `msgspec.DecodeError`."""
    return _decoder.decode(payload)


def blocks_stored(
    *,
    block_hashes: list[int | bytes],
    parent_block_hash: int | bytes | None,
    token_ids: list[int],
    block_size: int,
    cache_salt: str = "",
) -> BlockStored:
    """Return the event for new blocks of the one KV group."""
    extra_keys: list[tuple[Any, ...] | None] | None = None
    if cache_salt:
        extra_keys = [(cache_salt,) for _ in block_hashes]
    return BlockStored(
        block_hashes=block_hashes,
        parent_block_hash=parent_block_hash,
        token_ids=token_ids,
        block_size=block_size,
        lora_id=None,
        medium=MEDIUM_GPU,
        lora_name=None,
        extra_keys=extra_keys,
    )

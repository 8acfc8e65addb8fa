"""KV events have vLLM's schema on the wire, field for field."""

import msgspec
import pytest

from baton.kvtransfer.events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KvEvent,
    KvEventBatch,
    blocks_stored,
    decode_batch,
    encode_batch,
)

STORED = blocks_stored(
    block_hashes=[2**64 - 1, 7], parent_block_hash=None, token_ids=[1, 2, 3, 4], block_size=2
)


def on_the_wire(event: KvEvent) -> object:
    return msgspec.msgpack.decode(encode_batch(KvEventBatch(ts=1.5, events=[event], data_parallel_rank=3)))


def test_a_batch_is_an_array_and_an_event_a_tagged_map_without_defaults() -> None:
    assert on_the_wire(STORED) == [
        1.5,
        [
            {
                "type": "BlockStored",
                "block_hashes": [2**64 - 1, 7],
                "parent_block_hash": None,
                "token_ids": [1, 2, 3, 4],
                "block_size": 2,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
            }
        ],
        3,
    ]


def test_removals_and_clearing_carry_their_fields_alone() -> None:
    removed = BlockRemoved(block_hashes=[7], medium="GPU")

    assert on_the_wire(removed)[1] == [{"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU"}]
    assert on_the_wire(AllBlocksCleared())[1] == [{"type": "AllBlocksCleared"}]


def test_a_salt_is_an_extra_key_of_every_block() -> None:
    salted = blocks_stored(
        block_hashes=[1, 2], parent_block_hash=9, token_ids=[1, 2], block_size=1, cache_salt="tenant"
    )

    assert salted.extra_keys == [("tenant",), ("tenant",)]


def test_a_batch_survives_the_wire() -> None:
    batch = KvEventBatch(
        ts=1.0, events=[STORED, BlockRemoved(block_hashes=[7], medium=None), AllBlocksCleared()]
    )

    assert decode_batch(encode_batch(batch)) == batch


def test_a_batch_of_another_engine_with_unknown_fields_and_byte_hashes_is_understood() -> None:
    event = {
        "type": "BlockStored",
        "block_hashes": [b"\x01" * 32],
        "parent_block_hash": None,
        "token_ids": [5],
        "block_size": 1,
        "lora_id": None,
        "medium": "CPU",
        "lora_name": None,
        "group_idx": 0,
        "something_new": 1,
    }
    batch = decode_batch(msgspec.msgpack.encode([2.0, [event], 0, "more"]))

    assert isinstance(batch.events[0], BlockStored)
    assert batch.events[0].block_hashes == [b"\x01" * 32]


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="BlockMislaid"):
        decode_batch(msgspec.msgpack.encode([2.0, [{"type": "BlockMislaid"}]]))

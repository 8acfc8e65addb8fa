"""Digests depend on the token ids alone, and a block's hash on everything before it."""

import numpy as np
import xxhash

from baton.kvtransfer.digest import block_hashes, event_hash, token_digest

IDS = list(range(100, 120))


def test_the_token_digest_is_xxh3_128_over_little_endian_64_bit_ids() -> None:
    data = np.array(IDS, dtype="<i8").tobytes()

    assert token_digest(IDS) == xxhash.xxh3_128(data).hexdigest()


def test_the_token_digest_is_the_same_for_lists_tuples_and_arrays() -> None:
    assert token_digest(IDS) == token_digest(tuple(IDS)) == token_digest(np.array(IDS))


def test_one_other_token_gives_another_digest() -> None:
    assert token_digest([*IDS[:-1], 7]) != token_digest(IDS)


def test_only_full_blocks_have_a_hash() -> None:
    assert [len(block_hashes(IDS[:n], 8)) for n in (0, 7, 8, 15, 16, 20)] == [0, 0, 1, 1, 2, 2]


def test_prompts_share_the_hashes_of_their_common_blocks_and_no_others() -> None:
    ours, theirs = block_hashes(IDS, 4), block_hashes([*IDS[:9], 0, *IDS[10:]], 4)

    assert [a == b for a, b in zip(ours, theirs, strict=True)] == [True, True, False, False, False]


def test_a_block_is_not_found_under_another_parent() -> None:
    assert block_hashes([1, 2, 3, 4], 2)[1] != block_hashes([9, 9, 3, 4], 2)[1]


def test_another_salt_shares_nothing() -> None:
    assert not set(block_hashes(IDS, 4, "alice")) & set(block_hashes(IDS, 4, "bob"))


def test_the_chain_is_the_parents_digest_and_the_blocks_ids() -> None:
    first, second = block_hashes([1, 2], 1, "salt")
    seed = xxhash.xxh3_128_digest(b"salt")

    assert first == xxhash.xxh3_128_digest(seed + (1).to_bytes(8, "little"))
    assert second == xxhash.xxh3_128_digest(first + (2).to_bytes(8, "little"))


def test_an_event_carries_the_low_64_bits() -> None:
    assert event_hash(bytes(range(16))) == 0x08090A0B0C0D0E0F

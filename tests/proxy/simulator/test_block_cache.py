"""Blocks are never lost, never given twice, and the least recently used leave first."""

import random

from baton.proxy.simulator.block_cache import BlockCache, Lease


def computed(cache: BlockCache, keys: list[int], total: int | None = None) -> Lease | None:
    lease = cache.reserve(keys, total if total is not None else len(keys))
    if lease is not None:
        cache.publish(lease, keys[lease.matched :])
    return lease


def test_a_prefix_that_was_computed_is_matched_as_far_as_it_goes() -> None:
    cache = BlockCache(10)
    first = computed(cache, [1, 2, 3])
    assert first is not None
    cache.release(first)
    second = cache.reserve([1, 2, 9, 3], 4)

    assert second is not None
    assert (second.matched, second.own) == (2, 2)


def test_blocks_in_use_are_not_evicted_and_a_request_without_room_takes_nothing() -> None:
    cache = BlockCache(4)
    held = computed(cache, [1, 2, 3])
    assert held is not None

    assert cache.reserve([7, 8], 2) is None
    assert cache.in_use == 3
    cache.release(held)
    assert cache.reserve([7, 8], 4) is not None


def test_the_end_of_the_least_recently_used_prefix_leaves_first() -> None:
    cache = BlockCache(4)
    for keys in ([1, 2], [3, 4]):
        lease = computed(cache, keys)
        assert lease is not None
        cache.release(lease)
    assert computed(cache, [5]) is not None
    again = cache.reserve([1, 2], 2)

    assert again is not None
    assert again.matched == 1


def test_blocks_are_conserved_under_any_use() -> None:
    lot, cache, held = random.Random(5), BlockCache(50), []
    for _ in range(3000):
        if held and lot.random() < 0.5:
            cache.release(held.pop(lot.randrange(len(held))))
        else:
            stem = lot.randrange(5)
            keys = [100 * stem + depth for depth in range(lot.randrange(12))]
            lease = computed(cache, keys, len(keys) + lot.randrange(4))
            held += [lease] if lease is not None else []
        used = {key for lease in held for key in lease.keys}
        assert cache.in_use == len(used) + sum(lease.own for lease in held) <= 50
    for lease in held:
        cache.release(lease)
    assert cache.in_use == 0

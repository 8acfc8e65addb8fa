"""The horizon follows what is evicted, and never goes back."""

import random
from math import inf

from baton.proxy.routing.eviction_horizon import EvictionHorizon


def test_the_newest_block_that_left_sets_the_horizon() -> None:
    horizon = EvictionHorizon()
    for block, now in ((1, 10.0), (2, 20.0), (3, 30.0)):
        horizon.stored([block], now)
    assert horizon.at == -inf

    horizon.removed([2])
    horizon.removed([1])

    assert horizon.at == 20.0


def test_a_block_that_comes_again_counts_from_its_last_coming() -> None:
    horizon = EvictionHorizon()
    horizon.stored([1], 10.0)
    horizon.stored([1], 50.0)
    horizon.removed([1])
    horizon.removed([1])

    assert horizon.at == 50.0


def test_a_bounded_sample_is_enough_to_follow_a_large_cache() -> None:
    generator = random.Random(1)
    horizon = EvictionHorizon(most_tracked=64)
    blocks = [generator.getrandbits(64) for _ in range(20_000)]
    for at, block in enumerate(blocks):
        horizon.stored([block], float(at))
        if at >= 5000:
            horizon.removed([blocks[at - 5000]])
        assert len(horizon._stored_at) <= 64

    assert 14_000 < horizon.at < 15_000

"""Sequences get blocks of their own where they write, and shared ones where they only read."""

import pytest

from baton.engine.block_pool import BlockPool
from baton.engine.kv_cache import KvCache
from baton.engine.messages import Generate, SamplingParams
from baton.engine.sequence import Sequence, new_request
from baton.engine.step import Copy
from baton.kvtransfer.digest import block_hashes


@pytest.fixture
def cache() -> KvCache:
    return KvCache(BlockPool(11), block_tokens=4)


def sequence_of(tokens: list[int], n: int = 1) -> Sequence:
    generate = Generate(
        request_id="r", external_id="r", prompt_token_ids=tokens, sampling=SamplingParams(max_tokens=9), n=n
    )
    return new_request(generate, 1, 0.0).sequences[0]


def computed(cache: KvCache, tokens: list[int], n: int = 1) -> Sequence:
    sequence = sequence_of(tokens, n)
    assert cache.take(sequence, spare=0)
    sequence.num_computed = len(tokens)
    cache.publish(sequence)
    return sequence


def test_hashes_continued_over_generated_tokens_are_those_of_the_whole(cache: KvCache) -> None:
    tokens = list(range(12))
    sequence = computed(cache, tokens[:6])
    for token in tokens[6:]:
        sequence.tokens.append(token)
        assert cache.make_room(sequence)
        sequence.num_computed += 1
        cache.publish(sequence)

    assert sequence.digests == block_hashes(tokens, 4)


def test_too_little_room_changes_nothing(cache: KvCache) -> None:
    cache.release(computed(cache, list(range(8))))
    sequence = sequence_of([*range(8), *range(40, 60)])

    assert not cache.take(sequence, spare=4)
    assert (sequence.blocks, sequence.num_computed) == ([], 0)
    assert cache.pool.problems([], []) == []
    assert cache.take(sequence, spare=3)
    assert sequence.num_computed == 8


def test_cached_blocks_that_a_hit_would_wake_do_not_count_as_room(cache: KvCache) -> None:
    cache.release(computed(cache, list(range(8))))
    holder = computed(cache, list(range(100, 132)))
    assert cache.pool.available == 2

    assert not cache.take(sequence_of([*range(8), 50]), spare=0)
    cache.release(holder)


def test_a_whole_hit_gets_a_copy_of_the_last_block_and_keeps_its_source_alive(cache: KvCache) -> None:
    first = computed(cache, list(range(8)))
    source = first.blocks[1]
    cache.release(first)
    second = sequence_of(list(range(8)))
    assert cache.take(second, spare=0)

    assert second.num_computed == 7
    assert cache.take_copies() == [Copy(source, second.blocks[1])]
    assert cache.pool.problems([second.blocks, cache.copy_sources()], []) == []
    cache.copies_done([Copy(source, second.blocks[1])])
    assert cache.pool.problems([second.blocks], []) == []


def test_forks_write_into_copies_of_the_partly_filled_block(cache: KvCache) -> None:
    trunk = computed(cache, list(range(6)), n=3)
    forks = cache.fork(trunk)
    shared = trunk.blocks[1]
    for fork in forks:
        fork.tokens.append(1)
        assert cache.make_room(fork)

    assert [copy.source for copy in cache.take_copies()] == [shared] * 3
    assert len({fork.blocks[1] for fork in forks}) == 3
    assert len({fork.blocks[0] for fork in forks}) == 1
    assert cache.pool.problems([*(f.blocks for f in forks), cache.copy_sources()], []) == []


def test_there_may_be_no_room_to_grow(cache: KvCache) -> None:
    sequence = computed(cache, list(range(40)))
    sequence.tokens.append(1)

    assert cache.needs_room(sequence)
    assert not cache.make_room(sequence)

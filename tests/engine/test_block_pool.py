"""Every block is in exactly one place, whatever is done to the pool and in whatever order."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from baton.engine.block_pool import BlockPool, FullBlock, PoolExhaustedError


class Heard:
    """Remembers what the listener was told."""

    def __init__(self) -> None:
        self.stored: list[FullBlock] = []
        self.removed: list[bytes] = []

    def block_stored(self, block: FullBlock) -> None:
        self.stored.append(block)

    def block_removed(self, digest: bytes) -> None:
        self.removed.append(digest)


def test_the_null_block_is_never_handed_out() -> None:
    pool = BlockPool(4)

    assert sorted(pool.allocate(3)) == [1, 2, 3]


def test_a_pool_without_room_for_a_real_block_is_refused() -> None:
    with pytest.raises(ValueError, match="num_blocks: 1"):
        BlockPool(1)


def test_too_much_is_refused_and_nothing_is_taken() -> None:
    pool = BlockPool(4)

    with pytest.raises(PoolExhaustedError, match="4 blocks wanted, 3 available"):
        pool.allocate(4)
    assert pool.available == 3


def test_a_published_block_is_found_again_after_its_holder_let_go() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    pool.publish(blocks[0], FullBlock(b"a", None, [1]))
    pool.publish(blocks[1], FullBlock(b"b", b"a", [2]))
    pool.release(blocks)

    assert pool.counts().cached == 2
    assert pool.match([b"a", b"b", b"c"]) == blocks
    assert pool.match([b"x", b"b"]) == []


def test_the_end_of_the_oldest_prefix_is_evicted_first_and_free_blocks_before_any() -> None:
    heard = Heard()
    pool = BlockPool(6, heard)
    old, new = pool.allocate(2), pool.allocate(2)
    for blocks, names in ((old, (b"a", b"b")), (new, (b"c", b"d"))):
        pool.publish(blocks[0], FullBlock(names[0], None, [1]))
        pool.publish(blocks[1], FullBlock(names[1], names[0], [2]))
    pool.release(old)
    pool.release(new)

    pool.allocate(1)
    assert heard.removed == []
    pool.allocate(3)
    assert heard.removed == [b"b", b"a", b"d"]
    assert heard.stored[1] == FullBlock(b"b", b"a", [2])


def test_a_hit_makes_a_prefix_young_again() -> None:
    heard = Heard()
    pool = BlockPool(3, heard)
    first, second = pool.allocate(1), pool.allocate(1)
    pool.publish(first[0], FullBlock(b"a", None, [1]))
    pool.publish(second[0], FullBlock(b"b", None, [2]))
    pool.release(first)
    pool.release(second)
    pool.share(first)
    pool.release(first)

    pool.allocate(1)
    assert heard.removed == [b"b"]


def test_a_digest_known_already_keeps_its_block() -> None:
    heard = Heard()
    pool = BlockPool(3, heard)
    [first], [second] = pool.allocate(1), pool.allocate(1)
    pool.publish(first, FullBlock(b"a", None, [1]))
    pool.publish(second, FullBlock(b"a", None, [1]))
    pool.release([first, second])

    assert pool.match([b"a"]) == [first]
    assert len(heard.stored) == 1
    assert pool.counts().free == 1


def test_a_block_that_others_read_or_a_digest_vouches_for_is_not_writable() -> None:
    pool = BlockPool(4)
    shared, published, own = pool.allocate(3)
    pool.share([shared])
    pool.publish(published, FullBlock(b"a", None, [1]))

    assert [pool.is_writable(block) for block in (shared, published, own)] == [False, False, True]


def test_quarantined_blocks_are_not_handed_out_until_lifted() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    pool.quarantine(blocks)
    assert pool.available == 0
    assert pool.problems([], blocks) == []

    pool.lift(blocks)
    assert pool.available == 2


def test_the_check_names_a_leak_a_double_release_and_a_lost_quarantine() -> None:
    pool = BlockPool(5)
    held, leaked, stuck = pool.allocate(3)
    pool.quarantine([stuck])

    assert pool.problems([[held], [leaked]], [stuck]) == []
    assert pool.problems([[held]], [stuck]) == [f"block {leaked} has 1 references but 0 holders"]
    assert pool.problems([[held, held], [leaked]], [stuck]) == [
        f"block {held} has 1 references but 2 holders"
    ]
    assert pool.problems([[held], [leaked]], []) == [
        f"quarantined blocks are [{stuck}], their owners know []"
    ]


class PoolMachine(RuleBasedStateMachine):
    """Holders that allocate, share, publish, release, quarantine and lift in any order."""

    holders = Bundle("holders")
    stuck = Bundle("stuck")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12)
        self.held: list[list[int]] = []
        self.quarantined: list[list[int]] = []
        self.names = 0

    @rule(target=holders, count=st.integers(0, 6))
    def allocate(self, count: int) -> list[int]:
        if count > self.pool.available:
            with pytest.raises(PoolExhaustedError):
                self.pool.allocate(count)
            count = 0
        blocks = self.pool.allocate(count)
        assert 0 not in blocks
        self.held.append(blocks)
        return blocks

    @rule(target=holders, blocks=holders)
    def share(self, blocks: list[int]) -> list[int]:
        copy = list(blocks)
        self.pool.share(copy)
        self.held.append(copy)
        return copy

    @rule(target=holders, name=st.integers(0, 8))
    def hit(self, name: int) -> list[int]:
        blocks = self.pool.match([str(name).encode()])
        self.pool.share(blocks)
        self.held.append(blocks)
        return blocks

    @rule(blocks=holders, name=st.integers(0, 8))
    def publish(self, blocks: list[int], name: int) -> None:
        for block in blocks[:1]:
            if self.pool.is_writable(block):
                self.pool.publish(block, FullBlock(str(name).encode(), None, [name]))

    @rule(blocks=consumes(holders))
    def release(self, blocks: list[int]) -> None:
        self._drop(blocks)
        self.pool.release(blocks)

    @rule(target=stuck, blocks=consumes(holders))
    def quarantine(self, blocks: list[int]) -> list[int]:
        self._drop(blocks)
        own = [block for block in blocks if self.pool.is_writable(block)]
        self.pool.release([block for block in blocks if block not in own])
        self.pool.quarantine(own)
        self.quarantined.append(own)
        return own

    @rule(blocks=consumes(stuck))
    def lift(self, blocks: list[int]) -> None:
        self.quarantined.remove(blocks)
        self.pool.lift(blocks)

    @invariant()
    def is_sound(self) -> None:
        assert self.pool.problems(self.held, [b for blocks in self.quarantined for b in blocks]) == []
        assert self.pool.available == self.pool.counts().free + self.pool.counts().cached

    def _drop(self, blocks: list[int]) -> None:
        self.held = [held for held in self.held if held is not blocks]


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

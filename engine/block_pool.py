"""Which blocks of the KV pool are free, cached, in use or quarantined. Pure bookkeeping: no tensor, no clock.

    FREE --allocate--> IN USE --release--> FREE       the block's bytes are nobody's
                       IN USE --release--> CACHED     when `publish` named its bytes
    CACHED --share--> IN USE                          a prefix hit
    CACHED --allocate--> IN USE                       evicted, least recently used first
    IN USE --quarantine--> QUARANTINED --lift--> FREE a transfer may still write into it

Block 0 is the null block: no state, never handed out; padding rows read and write it.
Called by `kv_cache` and the schedulers, from the engine's thread alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .messages import BlockCounts

NULL_BLOCK = 0


class PoolExhaustedError(Exception):
    """More blocks were asked for than are free or cached."""


@dataclass(frozen=True, slots=True)
class FullBlock:
    """What the bytes of a full block are the KV of."""

    digest: bytes
    parent: bytes | None
    """Digest of the block before it; None at the start of a prompt."""
    token_ids: Sequence[int]
    salt: str = ""


class BlockListener(Protocol):
    """Hears which full blocks the prefix cache can serve; `kv_events` has one."""

    def block_stored(self, block: FullBlock) -> None:
        """The block can be reused from now on."""

    def block_removed(self, digest: bytes) -> None:
        """The block was evicted."""


class SilentListener:
    """Publishes nothing."""

    def block_stored(self, block: FullBlock) -> None:
        """Ignore it."""

    def block_removed(self, digest: bytes) -> None:
        """Ignore it."""


class BlockPool:
    """Reference counts, the prefix cache's index and the quarantine of `num_blocks` blocks, null included."""

    def __init__(self, num_blocks: int, listener: BlockListener | None = None) -> None:
        if num_blocks < 2:
            raise ValueError(f"num_blocks: {num_blocks} leaves no block beside the null block")
        self._listener = listener or SilentListener()
        self._references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._by_digest: dict[bytes, int] = {}
        self._free = list(range(num_blocks - 1, NULL_BLOCK, -1))
        self._cached: dict[int, None] = {}
        """Insertion order is age: the first is evicted first."""
        self._quarantined: set[int] = set()
        self._in_use = 0

    @property
    def total(self) -> int:
        """Blocks that can be handed out at all."""
        return len(self._references) - 1

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out now."""
        return len(self._free) + len(self._cached)

    def allocate(self, count: int) -> list[int]:
        """Return `count` blocks with one reference each. Raises `PoolExhaustedError`, having taken none."""
        if count > self.available:
            raise PoolExhaustedError(f"{count} blocks wanted, {self.available} available")
        taken = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        self._in_use += count
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Take one more reference to each block, be it in use or cached."""
        for block in blocks:
            if self._references[block] == 0:
                del self._cached[block]
                self._in_use += 1
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give one reference to each block back; the last block of a prefix becomes evictable first."""
        for block in reversed(blocks):
            left = self._references[block] - 1
            assert left >= 0, f"block {block} released without a reference"
            self._references[block] = left
            if left:
                continue
            self._in_use -= 1
            if self._digests[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix; a block is safe to use only once shared."""
        found = []
        for digest in digests:
            block = self._by_digest.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def unreferenced(self, blocks: Iterable[int]) -> int:
        """Return how many of `blocks` are cached and would stop being available when shared."""
        return sum(self._references[block] == 0 for block in blocks)

    def is_writable(self, block: int) -> bool:
        """Tell whether its one holder may write: nobody else reads it and no digest vouches for its bytes."""
        return self._references[block] == 1 and self._digests[block] is None

    def publish(self, block: int, content: FullBlock) -> None:
        """Name the bytes of a full block that is in use; a digest that is already known changes nothing."""
        digest = content.digest
        assert self._references[block] > 0, f"block {block} published while not in use"
        if digest in self._by_digest:
            return
        assert self._digests[block] is None, f"block {block} published twice"
        self._by_digest[digest] = block
        self._digests[block] = digest
        self._listener.block_stored(content)

    def quarantine(self, blocks: Iterable[int]) -> None:
        """Take blocks out of use that a transfer may still write into; their holder lets go of them."""
        for block in blocks:
            assert self.is_writable(block), f"block {block} quarantined while shared or cached"
            self._references[block] = 0
            self._in_use -= 1
            self._quarantined.add(block)

    def lift(self, blocks: Iterable[int]) -> None:
        """Free quarantined blocks: nothing writes into them any more."""
        for block in blocks:
            self._quarantined.remove(block)
            self._free.append(block)

    def counts(self) -> BlockCounts:
        """Return where the blocks are, from the running totals."""
        return BlockCounts(
            free=len(self._free),
            cached=len(self._cached),
            in_use=self._in_use,
            quarantined=len(self._quarantined),
            total=self.total,
        )

    def problems(self, holders: Iterable[Sequence[int]], quarantined: Iterable[int]) -> list[str]:
        """Return every broken invariant, given the block lists of all who hold references; empty is sound."""
        held = Counter(block for blocks in holders for block in blocks)
        expected = list(quarantined)
        return [
            *self._counting_problems(),
            *self._reference_problems(held),
            *self._index_problems(),
            *_difference("quarantined", self._quarantined, expected),
        ]

    def _evict(self) -> int:
        block = next(iter(self._cached))
        del self._cached[block]
        digest = self._digests[block]
        assert digest is not None, f"block {block} is cached without a digest"
        self._digests[block] = None
        del self._by_digest[digest]
        self._listener.block_removed(digest)
        return block

    def _counting_problems(self) -> list[str]:
        counts = self.counts()
        found = []
        used = {block for block, references in enumerate(self._references) if references}
        if len(used) != counts.in_use:
            found.append(f"{len(used)} blocks have references, but {counts.in_use} are counted as in use")
        if counts.free + counts.cached + counts.in_use + counts.quarantined != counts.total:
            found.append(f"blocks do not add up: {counts}")
        places = Counter([*self._free, *self._cached, *self._quarantined, *used])
        found += [f"block {block} is in {n} places at once" for block, n in places.items() if n > 1]
        if NULL_BLOCK in places:
            found.append("the null block is in circulation")
        return found

    def _reference_problems(self, held: Counter[int]) -> list[str]:
        return [
            f"block {block} has {references} references but {held[block]} holders"
            for block, references in enumerate(self._references)
            if references != held[block]
        ]

    def _index_problems(self) -> list[str]:
        named = {digest: block for block, digest in enumerate(self._digests) if digest is not None}
        found = [] if named == self._by_digest else ["the prefix index and the blocks' digests disagree"]
        return found + [f"block {b} is cached without a digest" for b in self._cached if not self._digests[b]]


def _difference(what: str, actual: set[int], expected: list[int]) -> list[str]:
    if actual == set(expected) and len(expected) == len(actual):
        return []
    return [f"{what} blocks are {sorted(actual)}, their owners know {sorted(expected)}"]

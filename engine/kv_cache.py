"""Gives sequences their blocks, and recognises prompts whose leading blocks are already there.

A sequence's blocks from left to right:

    | shared with the prefix cache | own, full, published | own, being filled | own, still empty |
      read only                      read only              written             written

A block that others read, or whose bytes a digest vouches for, is never written: the writer gets a copy first
(`Copy`, executed at the start of the step). Only full blocks are cached. Called by the schedulers.
"""

from ..kvtransfer.digest import block_hashes, next_block_hash
from .block_pool import BlockPool, FullBlock
from .sequence import Sequence
from .step import Copy


class KvCache:
    """Block tables of all sequences over one pool."""

    def __init__(self, pool: BlockPool, block_tokens: int, *, prefix_cache: bool = True) -> None:
        self.pool = pool
        self.block_tokens = block_tokens
        self._prefix_cache = prefix_cache
        self._copies: list[Copy] = []
        self._copies_in_flight: list[Copy] = []

    @property
    def capacity_tokens(self) -> int:
        """Tokens that fit when one sequence has the whole pool."""
        return self.pool.total * self.block_tokens

    def blocks_for(self, tokens: int) -> int:
        """Return how many blocks hold so many tokens."""
        return -(-tokens // self.block_tokens)

    def take(self, sequence: Sequence, *, spare: int) -> bool:
        """Give a sequence blocks for all its tokens, cached ones first, and set `num_computed` to the hit.

        At least one token stays to be computed, for its logits. Returns False, having changed nothing, when
        fewer than `spare` blocks would stay available.
        """
        assert not sequence.blocks, "the sequence has blocks already"
        tokens = len(sequence.tokens)
        matched = self._match(sequence)
        last_is_rewritten = len(matched) * self.block_tokens == tokens
        fresh = self.blocks_for(tokens) - len(matched) + last_is_rewritten
        if self.pool.available - self.pool.unreferenced(matched) - fresh < spare:
            return False
        self.pool.share(matched)
        sequence.blocks = matched + self.pool.allocate(fresh)
        sequence.num_computed = min(len(matched) * self.block_tokens, tokens - 1)
        sequence.num_published = len(matched) - last_is_rewritten
        if last_is_rewritten:
            self._copies.append(Copy(sequence.blocks.pop(-2), sequence.blocks[-1]))
        return True

    def needs_room(self, sequence: Sequence) -> bool:
        """Tell whether the next token's KV has no block that this sequence may write."""
        index = sequence.num_computed // self.block_tokens
        return index == len(sequence.blocks) or not self.pool.is_writable(sequence.blocks[index])

    def make_room(self, sequence: Sequence) -> bool:
        """Give the next token's KV a block of the sequence's own; False when the pool has none."""
        if not self.needs_room(sequence):
            return True
        if not self.pool.available:
            return False
        index = sequence.num_computed // self.block_tokens
        [block] = self.pool.allocate(1)
        if index == len(sequence.blocks):
            sequence.blocks.append(block)
        else:
            # The sequence's reference to the shared block passes to the copy, until the copy is done.
            self._copies.append(Copy(sequence.blocks[index], block))
            sequence.blocks[index] = block
        return True

    def reserve(self, sequence: Sequence, places: int) -> int:
        """Give a sequence blocks for so many places after its last token, as far as there are free ones.

        Returns how many places it has; those after the last token's own block are its own.
        """
        held = len(sequence.blocks) * self.block_tokens - len(sequence.tokens)
        missing = min(self.blocks_for(max(0, places - held)), self.pool.available)
        if missing:
            sequence.blocks += self.pool.allocate(missing)
        return held + missing * self.block_tokens

    def publish(self, sequence: Sequence) -> None:
        """Let others reuse the blocks that became full."""
        full = sequence.num_written // self.block_tokens
        if full <= sequence.num_published or not self._prefix_cache:
            return
        self._extend_digests(sequence, full)
        for index in range(sequence.num_published, full):
            start = index * self.block_tokens
            content = FullBlock(
                digest=sequence.digests[index],
                parent=sequence.digests[index - 1] if index else None,
                token_ids=sequence.tokens[start : start + self.block_tokens],
                salt=sequence.request.generate.cache_salt,
            )
            self.pool.publish(sequence.blocks[index], content)
        sequence.num_published = full

    def fork(self, trunk: Sequence) -> list[Sequence]:
        """Return one sequence a choice of the trunk; the trunk itself goes on as the first of them."""
        first, *others = trunk.choices
        trunk.choices = [first]
        forks = [
            Sequence(
                request=trunk.request,
                choices=[choice],
                tokens=list(trunk.tokens),
                blocks=list(trunk.blocks),
                num_computed=trunk.num_computed,
                digests=list(trunk.digests),
                num_published=trunk.num_published,
            )
            for choice in others
        ]
        for fork in forks:
            self.pool.share(fork.blocks)
        return [trunk, *forks]

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's blocks back; full ones stay cached."""
        self.pool.release(self.give_up(sequence))

    def give_up(self, sequence: Sequence) -> list[int]:
        """Detach a sequence from its blocks and return them: their references are the caller's now."""
        blocks, sequence.blocks = sequence.blocks, []
        sequence.num_computed = 0
        sequence.num_published = 0
        return blocks

    def take_copies(self) -> list[Copy]:
        """Return the copies to execute with the next step; their sources are held until `copies_done`."""
        copies, self._copies = self._copies, []
        self._copies_in_flight += copies
        return copies

    def copies_done(self, copies: list[Copy]) -> None:
        """Let go of the copies' sources."""
        for copy in copies:
            self._copies_in_flight.remove(copy)
        self.pool.release([copy.source for copy in copies])

    def copy_sources(self) -> list[int]:
        """Return the blocks held for copies that were not executed yet."""
        return [copy.source for copy in self._open_copies()]

    def awaits_copy(self, sequence: Sequence) -> bool:
        """Tell whether a copy into one of the sequence's blocks was not executed yet."""
        return writes_into(self._open_copies(), sequence)

    def problems(self) -> list[str]:
        """Return what is wrong with the copies that were not executed yet; empty is sound."""
        return [
            f"block {copy.target} is to be copied into, but not by its one holder"
            for copy in self._open_copies()
            if not self.pool.is_writable(copy.target)
        ]

    def _open_copies(self) -> list[Copy]:
        return [*self._copies_in_flight, *self._copies]

    def _match(self, sequence: Sequence) -> list[int]:
        if not self._prefix_cache:
            return []
        self._extend_digests(sequence, len(sequence.tokens) // self.block_tokens)
        return self.pool.match(sequence.digests)

    def _extend_digests(self, sequence: Sequence, blocks: int) -> None:
        digests = sequence.digests
        if not digests and blocks:
            known = sequence.tokens[: blocks * self.block_tokens]
            sequence.digests = block_hashes(known, self.block_tokens, sequence.request.generate.cache_salt)
            return
        while len(digests) < blocks:
            start = len(digests) * self.block_tokens
            digests.append(next_block_hash(digests[-1], sequence.tokens[start : start + self.block_tokens]))


def writes_into(copies: list[Copy], sequence: Sequence) -> bool:
    """Tell whether one of the copies goes into a block of the sequence."""
    return any(copy.target in sequence.blocks for copy in copies)

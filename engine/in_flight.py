"""What steps still write that were launched and have not landed. Pure.

A sequence that ends meanwhile keeps its blocks until then, or a block could get the bytes of two owners.
"""

from .kv_cache import KvCache
from .sequence import Sequence
from .step import Step


class InFlight:
    """The books of launched steps, which land in the order they were launched in."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache
        self._ended: list[Sequence] = []

    def launch(self, step: Step) -> None:
        """Count what the step computes as computed, and as in flight."""
        for sequence, tokens in step.computed():
            sequence.num_computed += tokens
            sequence.num_in_flight += tokens

    def land(self, step: Step) -> None:
        """Take note that the step's writes are done; give back what waited for them."""
        self._cache.copies_done(step.copies)
        for sequence, tokens in step.computed():
            sequence.num_in_flight -= tokens
        landed = [sequence for sequence in self._ended if not self._is_written(sequence)]
        for sequence in landed:
            self._ended.remove(sequence)
            self._cache.release(sequence)

    def let_go(self, sequence: Sequence) -> None:
        """Give the blocks of a sequence that ends back, now or when nothing in flight writes into them."""
        if self._is_written(sequence):
            self._ended.append(sequence)
        else:
            self._cache.release(sequence)

    def holders(self) -> list[list[int]]:
        """Return the blocks of ended sequences that are still written."""
        return [sequence.blocks for sequence in self._ended]

    def _is_written(self, sequence: Sequence) -> bool:
        return sequence.num_in_flight > 0 or self._cache.awaits_copy(sequence)

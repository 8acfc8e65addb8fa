"""A worker whose prefix cache evicts block by block as engines do, and which reports it; and its clients."""

import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from xxhash import xxh3_64_intdigest

from baton.proxy.routing.cache_events import CacheReport, Removed, Stored

BLOCK_BYTES = 256
"""A block of 64 tokens of 4 bytes."""


def block_hashes(prompt: bytes) -> list[int]:
    found, parent = [], 0
    for start in range(0, len(prompt) - BLOCK_BYTES + 1, BLOCK_BYTES):
        parent = xxh3_64_intdigest(prompt[start : start + BLOCK_BYTES], parent)
        found.append(parent)
    return found


@dataclass
class LruWorker:
    """Blocks in use are kept; of the others the first to be released goes first, a prompt from its end."""

    blocks: int
    clock_ahead_s: float = 0.0
    reports: list[CacheReport] = field(default_factory=list)
    references: dict[int, int] = field(default_factory=dict)
    free: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def cached_bytes(self, prompt: bytes) -> int:
        """Return how much of `prompt` needs no computing now."""
        found = 0
        for block in block_hashes(prompt):
            if block not in self.references:
                break
            found += BLOCK_BYTES
        return found

    def take(self, prompt: bytes, now: float) -> None:
        """Compute a prompt."""
        stored, removed = [], []
        for block in block_hashes(prompt):
            if block not in self.references:
                if len(self.references) >= self.blocks:
                    removed.append(self._evict())
                stored.append(block)
                self.references[block] = 0
            self.references[block] += 1
            self.free.pop(block, None)
        self._report(now, Removed(removed), Stored(stored))

    def finish(self, prompt: bytes) -> None:
        """Release its blocks."""
        for block in reversed(block_hashes(prompt)):
            self.references[block] -= 1
            if not self.references[block]:
                self.free[block] = None

    def _evict(self) -> int:
        block, _ = self.free.popitem(last=False)
        del self.references[block]
        return block

    def _report(self, now: float, *changes: Stored | Removed) -> None:
        some = [change for change in changes if change.hashes]
        if some:
            self.reports.append(CacheReport(ts=now + self.clock_ahead_s, changes=some))


def conversations(seed: int, *, turns: int, sessions: int, leave: float) -> Iterator[bytes]:
    """Yield the prompts of conversations that share a system prompt, `sessions` of them at a time."""
    generator = random.Random(seed)
    system = generator.randbytes(2048)
    open_ = [system + generator.randbytes(512) for _ in range(sessions)]
    for _ in range(turns):
        chosen = min(generator.randrange(sessions), generator.randrange(sessions))
        open_[chosen] += generator.randbytes(generator.randrange(300, 3000))
        yield open_[chosen]
        if generator.random() < leave:
            open_[chosen] = system + generator.randbytes(512)


def drained(worker: LruWorker) -> Sequence[CacheReport]:
    reports, worker.reports = worker.reports, []
    return reports

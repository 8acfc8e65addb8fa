"""Which worker probably holds how much of a prompt's KV, learned from what was sent where.

A prompt is cut into chunks of bytes; a chunk's key hashes the chunk and, through its seed, everything before
it, so equal keys mean equal prefixes. The index maps a key to the set of workers that were sent it. Prompts
are inserted at dispatch, before the worker has computed them, so that requests which arrive together find
each other; the worker's answer confirms, a failed dispatch retracts.

Entries live in two generations, each in order of last use. Every `max_age_s / 2` the young one becomes the
old one and the old one is forgotten: a worker stays in a set for `max_age_s / 2` to `max_age_s` after its
last use of the chunk. Under the byte cap the least recently used entries go first.

No clock, no I/O: policies and the dispatcher call it with the time.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

from xxhash import xxh3_64_intdigest

from .worker_bits import WorkerBits

T = TypeVar("T")

ENTRY_BYTES = 440
"""Upper bound of an entry's memory but for the digits of its set: key, set, list node (about 100) and its
share of tables that grow threefold and shrink late, one of which may be nearly empty. A test measures it."""
_INT_DIGIT_BITS = 30
_INT_DIGIT_BYTES = 4
_TRUST_PRIOR_CHUNKS = 64.0
_TRUST_MEMORY = 0.98
_DRAIN_AT_LEAST = 16


def prefix_keys(data: bytes | memoryview, chunk_bytes: int, seed: int) -> list[int]:
    """Return one 64-bit key for each whole chunk of `data`; a last part shorter than a chunk has none.

    `seed` separates what may not be shared: models, tenants.
    """
    keys = []
    whole = len(data) - len(data) % chunk_bytes
    for start in range(0, whole, chunk_bytes):
        seed = xxh3_64_intdigest(data[start : start + chunk_bytes], seed)
        keys.append(seed)
    return keys


class PrefixMatch:
    """How many leading chunks of one prompt each worker holds. Read it before the index changes."""

    def __init__(self, bits: WorkerBits, levels: list[tuple[int, int]]) -> None:
        self._bits = bits
        self._levels = levels

    @property
    def longest(self) -> int:
        """The most chunks that any worker holds."""
        return self._levels[-1][0] if self._levels else 0

    def chunks(self, worker: str) -> int:
        """Return how many leading chunks `worker` holds."""
        bit = self._bits.get(worker)
        return next((depth for depth, workers in self._levels if workers & bit), 0)

    def by_worker(self) -> dict[str, int]:
        """Return the number of chunks of every worker that holds any."""
        found: dict[str, int] = {}
        for depth, workers in self._levels:
            found.update(dict.fromkeys(self._bits.names(workers), depth))
        return found

    def depth(self, bit: int) -> int:
        """Return how many leading chunks the worker with this `PrefixIndex.bit` holds."""
        for depth, workers in self._levels:
            if workers & bit:
                return depth
        return 0

    def minorities(self, among: int, values: Sequence[T]) -> Iterator[list[T]]:
        """Return the workers of the set `among` that hold anything, in lists of equal depth, deepest first.

        Without the one list that has most of them, if there is one. Each worker stands as its entry of
        `values`, which has one for each bit.
        """
        most = among.bit_count() // 2
        for _, workers in reversed(self._levels):
            chosen = workers & among
            if 0 < chosen.bit_count() <= most:
                yield list(self._bits.chosen(chosen, values))


class _Trust:
    """How much of what the index promised of one worker turned out to be there, lately."""

    __slots__ = ("found", "promised")

    def __init__(self) -> None:
        self.promised = self.found = _TRUST_PRIOR_CHUNKS

    def record(self, promised: int, found: int) -> None:
        self.promised = self.promised * _TRUST_MEMORY + promised
        self.found = self.found * _TRUST_MEMORY + min(promised, found)


class PrefixIndex:
    """Chunk keys to sets of workers, in at most `max_bytes` of memory."""

    def __init__(self, *, max_bytes: int, max_age_s: float, now: float) -> None:
        self._max_bytes = max_bytes
        self._half_life_s = max_age_s / 2
        self._turned_at = now
        self._turn = 0
        self._bits = WorkerBits()
        self._young: OrderedDict[int, int] = OrderedDict()
        self._old: OrderedDict[int, int] = OrderedDict()
        self._forgotten: deque[OrderedDict[int, int]] = deque()
        self._forgotten_entries = 0
        self._trust: dict[str, _Trust] = {}

    def __len__(self) -> int:
        """Entries in memory, forgotten ones that are not yet freed included."""
        return len(self._young) + len(self._old) + self._forgotten_entries

    @property
    def memory_bytes(self) -> int:
        """Upper bound of the memory in use; at most `max_bytes` after every call."""
        return len(self) * self._entry_bytes()

    @property
    def bits_version(self) -> int:
        """Changes when a worker's `bit` may have changed."""
        return self._bits.version

    def bit(self, worker: str) -> int:
        """Return the worker's bit in sets, a new one if it has none."""
        return self._bits.claim(worker)

    def lookup(self, keys: Sequence[int], now: float) -> PrefixMatch:
        """Return how many leading `keys` every worker holds. Looking does not keep entries alive."""
        self._turn_generations(now)
        young, old = self._young, self._old
        levels = []
        matching = self._bits.live
        for depth, key in enumerate(keys):
            holding = (young.get(key, 0) | old.get(key, 0)) & matching
            if holding != matching:
                if depth:
                    levels.append((depth, matching ^ holding))
                matching = holding
                if not holding:
                    break
        if matching and keys:
            levels.append((len(keys), matching))
        return PrefixMatch(self._bits, levels)

    def insert(self, worker: str, keys: Sequence[int], now: float) -> None:
        """Take note that `worker` holds, or is about to compute, the chunks of `keys`."""
        self._turn_generations(now)
        self._free_forgotten(2 * len(keys) + _DRAIN_AT_LEAST)
        bit = self._bits.claim(worker)
        room = self._make_room(len(keys))
        young = self._young
        # From the last chunk to the first, so that a prefix never leaves before what builds on it.
        for key in reversed(keys[:room]):
            young[key] = young.get(key, 0) | bit
            young.move_to_end(key)

    def confirm(
        self, worker: str, keys: Sequence[int], *, promised_chunks: int, cached_chunks: int, now: float
    ) -> None:
        """Learn from a worker's answer: it has all of `keys` now, and had `cached_chunks` of them before.

        `promised_chunks` is what `lookup` said when the request was sent.
        """
        self.insert(worker, keys, now)
        self._trust.setdefault(worker, _Trust()).record(promised_chunks, cached_chunks)

    def trust(self, worker: str) -> float:
        """Return the share (0 to 1) of promised chunks that `worker` was found to have, lately."""
        record = self._trust.get(worker)
        return 1.0 if record is None else record.found / record.promised

    def retract(self, worker: str, keys: Sequence[int], *, kept_chunks: int) -> None:
        """Take back an insertion that came to nothing, but for the first `kept_chunks`."""
        bit = self._bits.get(worker)
        for generation in (self._young, self._old):
            for key in keys[kept_chunks:]:
                workers = generation.get(key, 0)
                if workers == bit:
                    generation.pop(key, None)
                elif workers & bit:
                    generation[key] = workers ^ bit

    def clear_worker(self, worker: str) -> None:
        """Forget all that `worker` held: it was restarted or removed."""
        self._bits.retire(worker, self._turn)
        self._trust.pop(worker, None)

    def age(self, now: float) -> None:
        """Forget what is too old; to be called now and then when nothing is inserted."""
        self._turn_generations(now)
        self._free_forgotten(1024)

    def turn(self, now: float) -> None:
        """Forget what was not used since the turn before: the workers' caches have turned over by half."""
        self._turn_generations(now)
        self._turn_once()
        self._turned_at = now
        self._bits.recycle(self._turn - 1)

    def _turn_generations(self, now: float) -> None:
        if now < self._turned_at + self._half_life_s:
            return
        while now >= self._turned_at + self._half_life_s:
            self._turn_once()
            self._turned_at += self._half_life_s
            if not self._old and now >= self._turned_at + self._half_life_s:
                self._turned_at = now
        self._bits.recycle(self._turn - 1)

    def _turn_once(self) -> None:
        if self._old:
            self._forgotten.append(self._old)
            self._forgotten_entries += len(self._old)
        self._old, self._young = self._young, OrderedDict()
        self._turn += 1

    def _make_room(self, entries: int) -> int:
        """Evict what `entries` more would push over the cap; return how many of them there is room for."""
        most = self._max_bytes // self._entry_bytes()
        over = len(self) + entries - most
        over -= self._free_forgotten(over)
        for generation in (self._old, self._young):
            evicted = max(0, min(over, len(generation)))
            for _ in range(evicted):
                generation.popitem(last=False)
            over -= evicted
        return min(entries, most)

    def _free_forgotten(self, most: int) -> int:
        """Free up to `most` forgotten entries and return how many; a whole generation at once would stall."""
        freed = 0
        while freed < most and self._forgotten:
            generation = self._forgotten[0]
            while freed < most and generation:
                generation.popitem(last=False)
                freed += 1
            if not generation:
                self._forgotten.popleft()
        self._forgotten_entries -= freed
        return freed

    def _entry_bytes(self) -> int:
        return ENTRY_BYTES + _INT_DIGIT_BYTES * -(-self._bits.slots // _INT_DIGIT_BITS)

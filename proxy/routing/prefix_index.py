"""Which worker probably holds how much of a prompt's KV, learned from what was sent where.

A prompt is cut into chunks of bytes; a chunk's key hashes the chunk and, through its seed, everything before
it, so equal keys mean equal prefixes. The index maps a key to the set of workers that were sent it. Prompts
are inserted at dispatch, before the worker has computed them, so that requests which arrive together find
each other; the worker's answer confirms, a failed dispatch retracts.

Chunks that follow each other and were sent to the same workers are one run, which is cut in two where prompts
part. Since a key stands for all that comes before it, a run is in a prompt when its last key is: a lookup and
an insertion cost a step for each run, of which a prompt has few, and not for each chunk.

Every `max_age_s / 2` the index turns: what was noted before the turn is old, what was old is forgotten. A
worker stays in a set for `max_age_s / 2` to `max_age_s` after its last use of the chunk. Under the byte cap
the least recently used runs go first, each from its end.

No clock, no I/O: policies and the dispatcher call it with the time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from xxhash import xxh3_64_intdigest

from .worker_bits import WorkerBits

T = TypeVar("T")

KEY_BYTES: Final = 190
"""Upper bound of a chunk's memory: its key, its places in a run and in a table that grows threefold."""
RUN_BYTES: Final = 500
"""Upper bound of a run's memory but for its chunks and the digits of its two sets. A test measures both."""
_INT_DIGIT_BITS: Final = 30
_INT_DIGIT_BYTES: Final = 4
_TRUST_PRIOR_CHUNKS: Final = 64.0
_TRUST_MEMORY: Final = 0.98
_DRAIN_AT_LEAST: Final = 16


def _hashed_in_c() -> Callable[[bytes | memoryview, int, int], list[int] | None] | None:
    """Return what hashes as `prefix_keys` does, or gives up; None where it was not compiled."""
    try:
        from .prompt_keys import hashed  # noqa: PLC0415
    except ImportError:
        return None
    return hashed


_hashed: Final = _hashed_in_c()


def prefix_keys(data: bytes | memoryview, chunk_bytes: int, seed: int) -> list[int]:
    """Return one 64-bit key for each whole chunk of `data`; a last part shorter than a chunk has none.

    `seed` separates what may not be shared: models, tenants.
    """
    if _hashed is not None:
        found = _hashed(data, chunk_bytes, seed)
        if found is not None:
            return found
    keys = []
    text = data if isinstance(data, bytes) else bytes(data)
    digest = xxh3_64_intdigest
    start, end = 0, chunk_bytes
    while end <= len(text):
        seed = digest(text[start:end], seed)
        keys.append(seed)
        start, end = end, end + chunk_bytes
    return keys


class PrefixMatch:
    """How many leading chunks of one prompt each worker holds. Read it before the index changes."""

    __slots__ = ("_bits", "_by_worker", "_levels", "version")

    def __init__(self, bits: WorkerBits, levels: list[tuple[int, int]], version: object) -> None:
        self._bits = bits
        self._levels = levels
        self._by_worker: dict[str, int] | None = None
        self.version = version
        """Of the index when it was read."""

    @property
    def longest(self) -> int:
        """The most chunks that any worker holds."""
        return self._levels[-1][0] if self._levels else 0

    def chunks(self, worker: str) -> int:
        """Return how many leading chunks `worker` holds."""
        bit = self._bits.get(worker)
        return next((depth for depth, workers in self._levels if workers & bit), 0)

    def by_worker(self) -> Mapping[str, int]:
        """Return the number of chunks of every worker that holds any; both legs of a decision ask."""
        if self._by_worker is None:
            self._by_worker = {}
            for depth, workers in self._levels:
                self._by_worker.update(dict.fromkeys(self._bits.names(workers), depth))
        return self._by_worker

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


NO_MATCH: Final = PrefixMatch(WorkerBits(), [], None)
"""Of a prompt shorter than a chunk."""


class _Trust:
    """How much of what the index promised of one worker turned out to be there, lately."""

    __slots__ = ("found", "promised")

    def __init__(self) -> None:
        self.promised = self.found = _TRUST_PRIOR_CHUNKS

    def record(self, promised: int, found: int) -> None:
        self.promised = self.promised * _TRUST_MEMORY + promised
        self.found = self.found * _TRUST_MEMORY + min(promised, found)


class _Run:
    """Chunks in a row that the same workers hold."""

    __slots__ = ("keys", "old", "turn", "young")

    def __init__(self, keys: list[int], turn: int, young: int, old: int) -> None:
        self.keys = keys
        self.turn = turn
        """When it was looked at last; a turn makes the young set the old one."""
        self.young = young
        self.old = old

    def workers(self, turn: int) -> int:
        """Return the set of those who hold it at `turn`."""
        if self.turn != turn:
            self.old = self.young if turn - self.turn == 1 else 0
            self.young = 0
            self.turn = turn
        return self.young | self.old

    def shared(self, keys: Sequence[int], at: int) -> int:
        """Return how many of its chunks stand in `keys` from `at` on, where its first one does."""
        mine, left = self.keys, len(keys) - at
        if len(mine) <= left and keys[at + len(mine) - 1] == mine[-1]:
            return len(mine)
        low, high = 1, min(len(mine), left)
        while low < high:  # equal keys have equal chunks before them
            middle = (low + high + 1) // 2
            if mine[middle - 1] == keys[at + middle - 1]:
                low = middle
            else:
                high = middle - 1
        return low


class PrefixIndex:
    """Chunk keys to sets of workers, in at most `max_bytes` of memory."""

    def __init__(self, *, max_bytes: int, max_age_s: float, now: float) -> None:
        self._max_bytes = max_bytes
        self._half_life_s = max_age_s / 2
        self._turned_at = now
        self._turn = 0
        self._bits = WorkerBits()
        self._run_of: dict[int, _Run] = {}
        self._runs: OrderedDict[_Run, None] = OrderedDict()
        """In order of their last use."""
        self._trust: dict[str, _Trust] = {}
        self._version = object()
        """Another one after every change."""

    def __len__(self) -> int:
        """Chunks in memory, forgotten ones that are not yet freed included."""
        return len(self._run_of)

    @property
    def memory_bytes(self) -> int:
        """Upper bound of the memory in use; at most `max_bytes` after every call."""
        return len(self._run_of) * KEY_BYTES + len(self._runs) * self._run_bytes()

    @property
    def bits_version(self) -> int:
        """Changes when a worker's `bit` may have changed."""
        return self._bits.version

    def bit(self, worker: str) -> int:
        """Return the worker's bit in sets, a new one if it has none."""
        return self._bits.claim(worker)

    def holds_still(self, match: PrefixMatch, now: float) -> bool:
        """Whether `match` is what `lookup` would return."""
        return match.version is self._version and now < self._turned_at + self._half_life_s

    def lookup(self, keys: Sequence[int], now: float) -> PrefixMatch:
        """Return how many leading `keys` every worker holds. Looking does not keep entries alive."""
        self._turn_generations(now)
        levels: list[tuple[int, int]] = []
        depth, matching = 0, self._bits.live if keys else 0
        while matching and depth < len(keys):
            run = self._run_of.get(keys[depth])
            holding = matching & run.workers(self._turn) if run is not None else 0
            if depth and holding != matching:
                levels.append((depth, matching ^ holding))
            matching = holding
            if run is not None and holding:
                depth, starts = depth + run.shared(keys, depth), depth
                if depth - starts < len(run.keys):
                    break
        if matching:
            levels.append((depth, matching))
        return PrefixMatch(self._bits, levels, self._version)

    def insert(self, worker: str, keys: Sequence[int], now: float) -> None:
        """Take note that `worker` holds, or is about to compute, the chunks of `keys`."""
        self._turn_generations(now)
        bit = self._bits.claim(worker)
        if not keys:
            return
        self._free_forgotten(2 * len(keys) + _DRAIN_AT_LEAST)
        most = (self._max_bytes - self._run_bytes()) // KEY_BYTES
        path = self._path(keys if len(keys) <= most else keys[:most])
        # From the last run to the first, so that a prefix never leaves before what builds on it.
        for run in reversed(path):
            run.workers(self._turn)
            run.young |= bit
            self._runs.move_to_end(run)
        self._evict()
        self._version = object()

    def confirm(
        self, worker: str, keys: Sequence[int], *, promised_chunks: int, cached_chunks: int, now: float
    ) -> None:
        """Learn from a worker's answer: it has all of `keys` now, and had `cached_chunks` of them before.

        `promised_chunks` is what `lookup` said when the request was sent.
        """
        if not self._has_noted(worker, keys):
            self.insert(worker, keys, now)
        self._trust.setdefault(worker, _Trust()).record(promised_chunks, cached_chunks)

    def _has_noted(self, worker: str, keys: Sequence[int]) -> bool:
        """Whether its use of `keys` was noted since the last turn: of the last one is of all before it."""
        run = self._run_of.get(keys[-1]) if keys else None
        return run is not None and run.turn == self._turn and bool(run.young & self._bits.get(worker))

    def trust(self, worker: str) -> float:
        """Return the share (0 to 1) of promised chunks that `worker` was found to have, lately."""
        record = self._trust.get(worker)
        return 1.0 if record is None else record.found / record.promised

    def retract(self, worker: str, keys: Sequence[int], *, kept_chunks: int) -> None:
        """Take back an insertion that came to nothing, but for the first `kept_chunks`."""
        bit = self._bits.get(worker)
        taken: dict[_Run, set[int]] = {}
        for key in keys[kept_chunks:]:
            run = self._run_of.get(key)
            if run is not None and run.workers(self._turn) & bit:
                taken.setdefault(run, set()).add(key)
        for run, gone in taken.items():
            for part in self._cut_out(run, gone):
                part.young &= ~bit
                part.old &= ~bit
                if not part.young | part.old:
                    self._shorten(part, len(part.keys))
        self._evict()
        self._version = object()

    def clear_worker(self, worker: str) -> None:
        """Forget all that `worker` held: it was restarted or removed."""
        self._bits.retire(worker, self._turn)
        self._trust.pop(worker, None)
        self._version = object()

    def turn(self, now: float) -> None:
        """Forget what was not used since the turn before: the workers' caches have turned over by half."""
        self._turn_generations(now)
        self._turned_at = now
        self._turn_to(self._turn + 1)

    def _turn_generations(self, now: float) -> None:
        passed = int((now - self._turned_at) // self._half_life_s)
        if passed > 0:
            self._turned_at += passed * self._half_life_s
            self._turn_to(self._turn + passed)

    def _turn_to(self, turn: int) -> None:
        self._turn = turn
        self._bits.recycle(turn - 1)
        self._version = object()

    # --- runs

    def _path(self, keys: Sequence[int]) -> list[_Run]:
        """Return the runs that are exactly `keys`, new ones for what is not known."""
        path, depth = [], 0
        while depth < len(keys):
            run = self._run_of.get(keys[depth])
            if run is None:
                run = self._add_unknown(keys, depth)
            elif run.keys[0] != keys[depth]:
                self._cut(run, run.keys.index(keys[depth]))
            elif (shared := run.shared(keys, depth)) < len(run.keys):
                run = self._cut(run, shared)
            path.append(run)
            depth += len(run.keys)
        return path

    def _add_unknown(self, keys: Sequence[int], start: int) -> _Run:
        """Return a new run of the keys from `start` on, which is not known, up to the next that is."""
        rest, run_of = list(keys[start:]), self._run_of
        run = _Run(rest, self._turn, 0, 0)
        for place, key in enumerate(rest):
            if run_of.setdefault(key, run) is not run:
                run.keys = rest[:place]
                break
        self._runs[run] = None
        return run

    def _add(self, keys: list[int], young: int, old: int) -> _Run:
        run = _Run(keys, self._turn, young, old)
        self._run_of.update(dict.fromkeys(keys, run))
        self._runs[run] = None
        return run

    def _cut(self, run: _Run, at: int) -> _Run:
        """Cut the first `at` chunks off `run`; return the run of these, which counts as used last.

        The others keep their place in the order of use: nobody asked for them.
        """
        run.workers(self._turn)
        head = self._add(run.keys[:at], run.young, run.old)
        run.keys = run.keys[at:]
        return head

    def _cut_out(self, run: _Run, chosen: set[int]) -> list[_Run]:
        """Cut `run` so that its `chosen` chunks are runs of their own, and return these."""
        found = []
        while True:
            # From the end, so that a prefix never leaves before what builds on it.
            last, keys = run.keys[-1] in chosen, run.keys
            others = (place for place in reversed(range(len(keys))) if (keys[place] in chosen) != last)
            end = next(others, None)
            head = None if end is None else self._cut(run, end + 1)
            if last:
                found.append(run)
            if head is None:
                return found
            run = head

    def _shorten(self, run: _Run, count: int) -> None:
        """Drop the last `count` chunks of `run`, and it when none are left."""
        run_of = self._run_of
        for key in run.keys[-count:]:
            del run_of[key]
        run.keys = run.keys[:-count]
        if not run.keys:
            del self._runs[run]

    def _evict(self) -> None:
        """Drop what was used least recently until the rest fits."""
        while (over := self.memory_bytes - self._max_bytes) > 0:
            oldest = next(iter(self._runs))
            self._shorten(oldest, min(-(-over // KEY_BYTES), len(oldest.keys)))

    def _free_forgotten(self, most: int) -> None:
        """Free up to `most` forgotten chunks; all of them at once would stall."""
        while most > 0 and self._runs:
            oldest = next(iter(self._runs))
            if oldest.workers(self._turn):
                return
            count = min(most, len(oldest.keys))
            self._shorten(oldest, count)
            most -= count

    def _run_bytes(self) -> int:
        return RUN_BYTES + 2 * _INT_DIGIT_BYTES * -(-self._bits.slots // _INT_DIGIT_BITS)

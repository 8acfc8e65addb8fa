"""Workers as bits of an integer, so that a set of workers is one number and sets combine in one operation.

A bit whose worker is gone may still stand in old sets: it is given to another worker only after the owner of
the sets says that none of them is left.
"""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TypeVar

T = TypeVar("T")

_DIGIT_VALUES = bytes.maketrans(b"01", b"\0\1")
_FEW = 8


class WorkerBits:
    """Which bit stands for which worker."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []
        self._retired: list[tuple[int, int]] = []
        self.live = 0
        """The set of all workers."""
        self.version = 0
        """Counts the workers that came and went."""

    @property
    def slots(self) -> int:
        """How many bits are or were in use; sets are smaller than `1 << slots`."""
        return len(self._names)

    def get(self, worker: str) -> int:
        """Return the worker's bit, 0 if it has none."""
        slot = self._slots.get(worker)
        return 0 if slot is None else 1 << slot

    def claim(self, worker: str) -> int:
        """Return the worker's bit, a fresh one if it has none."""
        slot = self._slots.get(worker)
        if slot is None:
            slot = self._free.pop() if self._free else len(self._names)
            self._names[slot : slot + 1] = [worker]
            self._slots[worker] = slot
            self.live |= 1 << slot
            self.version += 1
        return 1 << slot

    def retire(self, worker: str, turn: int) -> None:
        """Forget a worker; its bit may stand in sets that were made in or before `turn`."""
        slot = self._slots.pop(worker, None)
        if slot is not None:
            self.live ^= 1 << slot
            self.version += 1
            self._retired.append((turn, slot))

    def recycle(self, turn: int) -> None:
        """Free the bits retired before `turn`: no set that was made then is left."""
        self._free += [slot for retired_in, slot in self._retired if retired_in < turn]
        self._retired = [entry for entry in self._retired if entry[0] >= turn]

    def names(self, workers: int) -> Iterator[str]:
        """Return the names in a set of live workers."""
        return self.chosen(workers, self._names)

    def chosen(self, workers: int, of: Sequence[T]) -> Iterator[T]:
        """Return the elements of `of`, which has one for each slot, that belong to the set `workers`."""
        if workers.bit_count() <= _FEW:
            return self._few(workers, of)
        digits = bin(workers)[:1:-1].encode().translate(_DIGIT_VALUES)
        return compress(of, digits)

    def _few(self, workers: int, of: Sequence[T]) -> Iterator[T]:
        while workers:
            lowest = workers & -workers
            yield of[lowest.bit_length() - 1]
            workers ^= lowest

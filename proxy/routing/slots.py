"""Decode slots: how many KV tokens of each decode worker are spoken for, and who has room for a request.

A slot is held by a request from before its prefill starts until nothing of it is in flight. A request that
needs more than a worker has at all gets that worker when it is empty: whether it fits is the worker's to say.
Room is kept sorted by model, so that asking costs a bisection however many workers there are. No clock, no
I/O; called by `admission.py`.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from math import inf


class SlotError(Exception):
    """A slot granted twice: a fault of the proxy itself."""


@dataclass
class _WorkerSlots:
    """One worker; without models it is not offered, and is kept for what it still holds."""

    capacity_tokens: float = 0.0
    held_tokens: int = 0
    holders: int = 0
    models: frozenset[str] = frozenset()

    @property
    def room_tokens(self) -> float:
        return self.capacity_tokens - self.held_tokens


@dataclass
class _Room:
    """The offered workers of one model."""

    ascending: list[tuple[float, str]] = field(default_factory=list)
    """(free tokens, worker)."""
    empty: int = 0
    """How many of them hold no slot."""


class DecodeSlots:
    """Who holds how much, and where there is room."""

    def __init__(self) -> None:
        self._workers: dict[str, _WorkerSlots] = {}
        self._rooms: dict[str, _Room] = {}
        self._held: dict[Hashable, tuple[str, int]] = {}

    def __len__(self) -> int:
        """Slots that are held."""
        return len(self._held)

    @property
    def held_tokens(self) -> int:
        """Tokens of all slots that are held."""
        return sum(tokens for _, tokens in self._held.values())

    def held_by_worker(self) -> dict[str, int]:
        """Return the tokens held on every worker that is offered or holds any."""
        return {name: worker.held_tokens for name, worker in self._workers.items()}

    # --- workers

    def offer(self, worker: str, models: Iterable[str], capacity_tokens: float | None) -> None:
        """`worker` takes requests for `models`, at most `capacity_tokens` at once (None: without limit)."""
        slots = self._workers.setdefault(worker, _WorkerSlots())
        self._unlist(worker, slots)
        slots.capacity_tokens = inf if capacity_tokens is None else capacity_tokens
        slots.models = frozenset(models)
        self._list(worker, slots)

    def withdraw(self, worker: str) -> None:
        """`worker` takes nothing new; what it holds is held until it is released."""
        slots = self._workers.get(worker)
        if slots is None:
            return
        self._unlist(worker, slots)
        slots.models = frozenset()
        self._drop_if_done(worker, slots)

    def models_of(self, worker: str) -> frozenset[str]:
        """Return the models that `worker` is offered for."""
        slots = self._workers.get(worker)
        return frozenset() if slots is None else slots.models

    def is_served(self, model: str) -> bool:
        """Whether any worker is offered for `model`, with room or without."""
        return model in self._rooms

    # --- room

    def has_room(self, model: str, tokens: int) -> bool:
        """Whether some worker can hold `tokens` more."""
        room = self._rooms.get(model)
        return room is not None and (room.ascending[-1][0] >= tokens or room.empty > 0)

    def full_for(self, model: str, tokens: int) -> set[str]:
        """Return the workers of `model` that cannot hold `tokens` more."""
        room = self._rooms.get(model)
        if room is None or room.ascending[0][0] >= tokens:
            return set()
        cut = bisect_left(room.ascending, (tokens, ""))
        return {name for _, name in room.ascending[:cut] if self._workers[name].holders}

    # --- slots

    def grant(self, holder: Hashable, worker: str, tokens: int) -> None:
        """Give `holder` a slot, beyond the worker's room if need be. Raises `SlotError` if it has one."""
        if holder in self._held:
            raise SlotError(f"{holder!r} already holds a slot on {self._held[holder][0]}")
        self._held[holder] = (worker, tokens)
        self._change(worker, tokens, 1)

    def release(self, holder: Hashable) -> tuple[str, int] | None:
        """Take the slot back; return its worker and tokens, None if there was none."""
        held = self._held.pop(holder, None)
        if held is not None:
            worker, tokens = held
            self._change(worker, -tokens, -1)
        return held

    def problems(self) -> list[str]:
        """Return every broken invariant; empty is sound."""
        sums = dict.fromkeys(self._workers, 0)
        for worker, tokens in self._held.values():
            sums[worker] = sums.get(worker, 0) + tokens
        found = [
            f"{name} holds {sums[name]} tokens, {slots.held_tokens} are booked"
            for name, slots in self._workers.items()
            if sums[name] != slots.held_tokens
        ]
        for model, room in self._rooms.items():
            expected = sorted((w.room_tokens, n) for n, w in self._workers.items() if model in w.models)
            if room.ascending != expected:
                found.append(f"the room of {model} is out of date")
            if room.empty != sum(self._workers[name].holders == 0 for _, name in room.ascending):
                found.append(f"the empty workers of {model} are miscounted")
        return found

    def _change(self, worker: str, tokens: int, holders: int) -> None:
        slots = self._workers.get(worker)
        if slots is None:
            slots = self._workers[worker] = _WorkerSlots()
        before, was_empty = slots.capacity_tokens - slots.held_tokens, not slots.holders
        slots.held_tokens += tokens
        slots.holders += holders
        after, is_empty = slots.capacity_tokens - slots.held_tokens, not slots.holders
        for model in slots.models:
            room = self._rooms[model]
            if after != before:  # the same where there is no limit
                del room.ascending[bisect_left(room.ascending, (before, worker))]
                insort(room.ascending, (after, worker))
            room.empty += is_empty - was_empty
        if not slots.models:
            self._drop_if_done(worker, slots)

    def _list(self, worker: str, slots: _WorkerSlots) -> None:
        for model in slots.models:
            room = self._rooms.setdefault(model, _Room())
            insort(room.ascending, (slots.room_tokens, worker))
            room.empty += not slots.holders

    def _unlist(self, worker: str, slots: _WorkerSlots) -> None:
        for model in slots.models:
            room = self._rooms[model]
            del room.ascending[bisect_left(room.ascending, (slots.room_tokens, worker))]
            room.empty -= not slots.holders
            if not room.ascending:
                del self._rooms[model]

    def _drop_if_done(self, worker: str, slots: _WorkerSlots) -> None:
        if not slots.models and not slots.holders:
            self._workers.pop(worker, None)

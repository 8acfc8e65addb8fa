"""What each worker has to do: one row of numbers a worker and leg, read by decisions.

Prefill is a queue in expected seconds. Decode is the step that the worker's sequences make. A row is kept up
to date by what happens to its worker, never computed in a decision.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from weakref import ref

from .least_squares import DecayedFit
from .prefill_queue import PrefillQueue
from .rates import Rates, attended_pairs
from .ready_order import ReadyOrder

LATE_S = 1e9
"""Longer than any wait, and than any clock has run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker tells of itself that bears on its load. Unknown is None or empty."""

    kv_tokens_capacity: int | None = None
    captured_batch_sizes: tuple[int, ...] = ()
    """Ascending batch sizes that steps are padded to; empty: steps are not padded."""
    lockstep_group: str | None = None
    """Decode workers of one group take every step together, at the pace of the slowest."""


class PrefillRow(PrefillQueue):
    """One worker's queue, and what a prompt costs it."""

    __slots__ = ("fit", "number", "trust")

    def __init__(self, number: int, fit: DecayedFit) -> None:
        super().__init__()
        self.number = number
        self.fit = fit
        """Base, per token, per pair: the worker's own, or its fleet's while there is none."""
        self.trust = 1.0
        """Share of the cached tokens it is believed to have that it was found to have."""

    @property
    def ready(self) -> float:
        """Order in which workers are ready: those that idle first, the fastest of them first."""
        return self.clear_at if self.prompts else self.fit.coefficients[1] - LATE_S

    def predict(self, uncached_tokens: float, cached_tokens: float) -> float:
        """Return the expected seconds of a prompt."""
        base_s, token_s, pair_s = self.fit.coefficients
        return base_s + token_s * uncached_tokens + pair_s * attended_pairs(uncached_tokens, cached_tokens)


class Team:
    """The decode workers that take their steps together: one, or a lockstep group."""

    __slots__ = ("computed", "computing", "members")

    def __init__(self) -> None:
        self.members: list[DecodeRow] = []
        self.computing = 0
        """Prompts that they compute themselves now,"""
        self.computed = 0
        """and have computed."""

    @property
    def sequences(self) -> int:
        """How many all members have."""
        return sum(row.sequences for row in self.members)

    def pace(self) -> tuple[float, int]:
        """Return the slowest member's step, and how many sequences all have."""
        return max(map(_step_s, self.members)), self.sequences


class DecodeRow:
    """One worker's step as it is, with one sequence more, and the KV that is spoken for."""

    __slots__ = (
        "capacity_tokens", "captured_sizes", "context_token_s", "context_tokens", "fit", "number",
        "reserved_tokens", "sequences", "step_s", "step_with_one_more_s", "team",
    )  # fmt: skip

    def __init__(self, number: int, fit: DecayedFit) -> None:
        self.number = number
        self.fit = fit
        """Base, per row, per context token: the worker's own, or its fleet's while there is none."""
        self.team = Team()
        self.team.members.append(self)
        self.captured_sizes: tuple[int, ...] = ()
        self.sequences = 0
        self.context_tokens = self.reserved_tokens = 0.0
        self.capacity_tokens = inf
        self.context_token_s = 0.0
        self.step_s = 0.0
        self.step_with_one_more_s = 0.0
        """Without the context of that one more."""
        self.weigh()

    @property
    def ready(self) -> float:
        """Order in which workers are ready: by the step with one more, those without room last."""
        full = self.reserved_tokens >= self.capacity_tokens
        return self.step_with_one_more_s + (LATE_S if full else 0.0)

    def change(self, sequences: int, context_tokens: float, reserved_tokens: float) -> None:
        """Sequences came or went."""
        self.sequences += sequences
        if self.sequences:
            self.context_tokens += context_tokens
            self.reserved_tokens += reserved_tokens
        else:  # Exactly zero when empty, whatever rounding has left.
            self.context_tokens = self.reserved_tokens = 0.0
        self.weigh()

    def weigh(self) -> None:
        """Compute the steps anew."""
        base_s, row_s, self.context_token_s = self.fit.coefficients
        count = now = self.sequences
        more = count + 1
        if self.captured_sizes:
            now, more = self.padded(now), self.padded(more)
        context_s = self.context_token_s * self.context_tokens
        self.step_s = (base_s + row_s * now + context_s) if count else 0.0
        self.step_with_one_more_s = base_s + row_s * more + context_s

    def padded(self, sequences: int) -> int:
        """Return how many rows a step of so many sequences has."""
        sizes = self.captured_sizes
        place = bisect_left(sizes, sequences)
        return sizes[place] if place < len(sizes) else sequences

    def step_features(self) -> tuple[float, float]:
        """Return rows, padded to a captured size, and context of the step that the worker takes part in.

        In a lockstep group they are those of the slowest.
        """
        members = self.team.members
        if len(members) == 1 and not self.captured_sizes:
            return self.sequences, self.context_tokens
        slowest = max(members, key=_step_s) if len(members) > 1 else self
        return slowest.padded(slowest.sequences), slowest.context_tokens


def _step_s(row: DecodeRow) -> float:
    return row.step_s


class Load:
    """The load of all workers, by name; a number that one has left goes to another, with rows of its own."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []
        self._facts: list[WorkerFacts] = []
        self._groups: dict[str, Team] = {}
        self._oldest = 0
        self._capacity: float | None = None
        self.prefill: list[PrefillRow] = []
        """By number."""
        self.decode: list[DecodeRow] = []
        self._prefill_orders: list[ref[ReadyOrder]] = []
        self._decode_orders: list[ref[ReadyOrder]] = []

    def number(self, worker: str) -> int:
        """Return the number of the worker's rows, new ones if it has none."""
        number = self._numbers.get(worker)
        return number if number is not None else self._add(worker)

    def find(self, worker: str) -> int | None:
        """Return the number of the worker's rows, if it has any."""
        return self._numbers.get(worker)

    def holds(self, row: PrefillRow | DecodeRow) -> bool:
        """Whether the row's worker was not removed since."""
        return row is self.prefill[row.number] or row is self.decode[row.number]

    def forget(self, worker: str) -> None:
        """It was removed. What is in flight there keeps its rows until it ends; no one else sees them."""
        number = self._numbers.pop(worker, None)
        if number is None:
            return
        self._leave_team(number)
        self._facts[number] = WorkerFacts()
        self.prefill[number], self.decode[number] = self._rows(number, worker)
        self._free.append(number)
        self._capacity = None

    def prefill_row(self, worker: str) -> PrefillRow:
        """Return what the worker has to prefill."""
        return self.prefill[self.number(worker)]

    def decode_row(self, worker: str) -> DecodeRow:
        """Return what the worker decodes."""
        return self.decode[self.number(worker)]

    @property
    def kv_tokens_capacity(self) -> float:
        """The KV pools of all workers together; infinite if one does not tell."""
        if self._capacity is None:
            self._capacity = sum(self.decode[number].capacity_tokens for number in self._numbers.values())
        return self._capacity

    def describe(self, worker: str, facts: WorkerFacts) -> None:
        """Take note of what a worker told of itself."""
        number = self.number(worker)
        before = self._facts[number]
        if before == facts:
            return
        if facts.lockstep_group != before.lockstep_group:
            self._leave_team(number)
            self._join_team(number, facts.lockstep_group)
        self._facts[number] = facts
        self._capacity = None
        row = self.decode[number]
        row.captured_sizes = facts.captured_batch_sizes
        row.capacity_tokens = inf if facts.kv_tokens_capacity is None else facts.kv_tokens_capacity
        row.weigh()
        self._decode_moved(row)

    def prefill_order(self, numbers: Sequence[int]) -> ReadyOrder:
        """Return the order of the prefill rows of these numbers, kept up to date while it lives."""
        return _kept(self._prefill_orders, ReadyOrder(numbers, [row.ready for row in self.prefill]))

    def decode_order(self, numbers: Sequence[int]) -> ReadyOrder:
        """Return the same of the decode rows."""
        return _kept(self._decode_orders, ReadyOrder(numbers, [row.ready for row in self.decode]))

    def prompt_sent(
        self, row: PrefillRow, prompt: int, *, seconds: float, uncached_tokens: float, now: float
    ) -> None:
        """A prompt that should take `seconds` waits on the row's worker from now on."""
        row.add(prompt, seconds, uncached_tokens, now)
        if self._prefill_orders:
            self._prefill_moved(row)

    def prompt_done(self, row: PrefillRow, prompt: int, now: float) -> float | None:
        """It was answered or given up. Return how long it was first in line; None if it never was."""
        took = row.remove(prompt, now)
        if self._prefill_orders:
            self._prefill_moved(row)
        return took

    def sequence_added(self, row: DecodeRow, context_tokens: float, reserved_tokens: float) -> None:
        """The worker decodes, or will, a sequence of so much context that will need so many tokens of KV."""
        row.change(1, context_tokens, reserved_tokens)
        if self._decode_orders:
            self._decode_moved(row)

    def sequence_removed(self, row: DecodeRow, context_tokens: float, reserved_tokens: float) -> None:
        """The sequence ended."""
        row.change(-1, -context_tokens, -reserved_tokens)
        if self._decode_orders:
            self._decode_moved(row)

    def learned(self, number: int) -> None:
        """Take over what the rates learned of a worker, and of one other in turn: it may use its fleet's."""
        name = self._names[number]
        self.prefill[number].fit = self._rates.prefill_fit(name)
        self.decode[number].fit = self._rates.decode_step_fit(name)
        self._oldest = (self._oldest + 1) % len(self._names)
        for stale in (number, self._oldest):
            self.decode[stale].weigh()
            self._prefill_moved(self.prefill[stale])
            self._decode_moved(self.decode[stale])

    def _add(self, worker: str) -> int:
        number = self._free.pop() if self._free else len(self._names)
        self._numbers[worker] = number
        queue, steps = self._rows(number, worker)
        self._names[number : number + 1] = [worker]
        self._facts[number : number + 1] = [WorkerFacts()]
        self.prefill[number : number + 1] = [queue]
        self.decode[number : number + 1] = [steps]
        self._capacity = None
        return number

    def _rows(self, number: int, worker: str) -> tuple[PrefillRow, DecodeRow]:
        rates = self._rates
        return (
            PrefillRow(number, rates.prefill_fit(worker)),
            DecodeRow(number, rates.decode_step_fit(worker)),
        )

    def _leave_team(self, number: int) -> None:
        row, group = self.decode[number], self._facts[number].lockstep_group
        row.team.members.remove(row)
        if group is not None and not row.team.members:
            del self._groups[group]

    def _join_team(self, number: int, group: str | None) -> None:
        row = self.decode[number]
        row.team = Team() if group is None else self._groups.setdefault(group, Team())
        row.team.members.append(row)

    # A row that its worker has left has no place in an order: its number may be another's.

    def _prefill_moved(self, row: PrefillRow) -> None:
        if self.prefill[row.number] is not row:
            return
        for tell in self._prefill_orders:
            if (order := tell()) is not None:
                order.moved(row.number, row.ready)

    def _decode_moved(self, row: DecodeRow) -> None:
        if self.decode[row.number] is not row:
            return
        for tell in self._decode_orders:
            if (order := tell()) is not None:
                order.moved(row.number, row.ready)


def _kept(orders: list[ref[ReadyOrder]], order: ReadyOrder) -> ReadyOrder:
    orders.append(ref(order, orders.remove))
    return order

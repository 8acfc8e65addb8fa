"""What each worker has to do, as columns of numbers: one row a worker, to be read without touching objects.

Prefill is a queue in expected seconds. Decode is the step that the worker's sequences make. A row is computed
again when something of that worker changed, never in a decision.
"""

from bisect import bisect_left
from dataclasses import dataclass
from math import inf
from weakref import WeakSet

from .prefill_queue import PrefillQueue
from .rates import Rates
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


class PrefillColumns:
    """By row: the queue, and what a prompt costs."""

    def __init__(self) -> None:
        self.orders: WeakSet[ReadyOrder] = WeakSet()
        """Told when an entry of `ready` changes."""
        self.clear_at: list[float] = []
        self.behind_first_s: list[float] = []
        self.base_s: list[float] = []
        self.token_s: list[float] = []
        self.pair_s: list[float] = []
        self.ready: list[float] = []
        """Order in which workers are ready: those that idle first, the fastest of them first."""
        self.prompts: list[int] = []
        """In the queue."""
        self.trust: list[float] = []
        self.uncached_tokens: list[float] = []
        """Of the prompts in the queue."""


class DecodeColumns:
    """By row: the step as it is, the step with one sequence more, and the KV that is spoken for."""

    def __init__(self) -> None:
        self.orders: WeakSet[ReadyOrder] = WeakSet()
        """Told when an entry of `ready` changes."""
        self.step_s: list[float] = []
        self.step_with_one_more_s: list[float] = []
        """Without the context of that one more."""
        self.context_token_s: list[float] = []
        self.ready: list[float] = []
        """Order in which workers are ready: by the step with one more, those without room last."""
        self.rows: list[int] = []
        self.reserved_tokens: list[float] = []
        self.capacity_tokens: list[float] = []


class Load:
    """The load of all workers that were ever heard of; rows are never reused for another name."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._rows: dict[str, int] = {}
        self._names: list[str] = []
        self._facts: list[WorkerFacts] = []
        self._queues: list[PrefillQueue] = []
        self._contexts: list[float] = []
        self._oldest = 0
        self.facts_version = 0
        """Counts the changes of what workers told."""
        self.prefill = PrefillColumns()
        self.decode = DecodeColumns()

    def row(self, worker: str) -> int:
        """Return the worker's row, a new one if it has none."""
        row = self._rows.get(worker)
        return row if row is not None else self._add(worker)

    def facts(self, worker: str) -> WorkerFacts:
        """Return what is known of the worker."""
        return self._facts[self.row(worker)]

    @property
    def kv_tokens_capacity(self) -> float:
        """The KV pools of all workers together; infinite if one does not tell."""
        return sum(self.decode.capacity_tokens)

    def describe(self, worker: str, facts: WorkerFacts) -> None:
        """Take note of what a worker told of itself."""
        row = self.row(worker)
        if self._facts[row] != facts:
            self._facts[row] = facts
            self.facts_version += 1
            self._weigh_decode(row)

    def prompt_sent(
        self, worker: str, prompt: int, *, seconds: float, uncached_tokens: float, now: float
    ) -> None:
        """A prompt that should take `seconds` waits on `worker` from now on."""
        row = self.row(worker)
        self._queues[row].add(prompt, seconds, uncached_tokens, now)
        self._weigh_prefill(row)

    def prompt_done(self, worker: str, prompt: int, now: float) -> float | None:
        """It was answered or given up. Return how long it was first in line; None if it never was."""
        row = self.row(worker)
        took = self._queues[row].remove(prompt, now)
        self._weigh_prefill(row)
        return took

    def team(self, worker: str) -> str:
        """Return what names all those whose steps `worker` takes part in."""
        return self.facts(worker).lockstep_group or worker

    def prompts_waiting(self, worker: str) -> int:
        """Return how many prompts `worker` was sent and has not answered."""
        return len(self._queues[self.row(worker)])

    def sequence_added(self, worker: str, *, context_tokens: float, reserved_tokens: float) -> None:
        """`worker` decodes, or will, a sequence of so much context that will need so many tokens of KV."""
        self._change_sequences(worker, 1, context_tokens, reserved_tokens)

    def sequence_removed(self, worker: str, *, context_tokens: float, reserved_tokens: float) -> None:
        """The sequence ended."""
        self._change_sequences(worker, -1, -context_tokens, -reserved_tokens)

    def step_features(self, worker: str) -> tuple[float, float]:
        """Return rows, padded to a captured size, and context of the step that `worker` takes part in.

        In a lockstep group they are those of the slowest.
        """
        row = self.row(worker)
        group = self._facts[row].lockstep_group
        if group is not None:
            members = [i for i, facts in enumerate(self._facts) if facts.lockstep_group == group]
            row = max(members, key=self.decode.step_s.__getitem__)
        return self._padded(row, self.decode.rows[row]), self._contexts[row]

    def refresh(self, worker: str, trust: float) -> None:
        """Take over what was learned of `worker`, and of one other in turn that may use its fleet's rates."""
        row = self.row(worker)
        self.prefill.trust[row] = trust
        self._oldest = (self._oldest + 1) % len(self._names)
        for stale in (row, self._oldest):
            self._weigh_prefill(stale)
            self._weigh_decode(stale)

    def _add(self, worker: str) -> int:
        row = self._rows[worker] = len(self._names)
        self._names.append(worker)
        self._facts.append(WorkerFacts())
        self._queues.append(PrefillQueue())
        self._contexts.append(0.0)
        for columns in (self.prefill, self.decode):
            for column in vars(columns).values():
                if isinstance(column, list):
                    column.append(0)
        self.prefill.trust[row] = 1.0
        self._weigh_prefill(row)
        self._weigh_decode(row)
        return row

    def _change_sequences(self, worker: str, rows: int, context: float, reserved: float) -> None:
        row = self.row(worker)
        self.decode.rows[row] += rows
        empty = not self.decode.rows[row]
        # Exactly zero when empty, whatever rounding has left.
        self._contexts[row] = 0.0 if empty else self._contexts[row] + context
        self.decode.reserved_tokens[row] = 0.0 if empty else self.decode.reserved_tokens[row] + reserved
        self._weigh_decode(row)

    def _weigh_prefill(self, row: int) -> None:
        queue, columns = self._queues[row], self.prefill
        fit = self._rates.prefill_fit(self._names[row])
        columns.clear_at[row] = queue.clear_at
        columns.behind_first_s[row] = queue.behind_first_s
        columns.prompts[row] = len(queue)
        columns.uncached_tokens[row] = queue.uncached_tokens
        columns.base_s[row], columns.token_s[row], columns.pair_s[row] = fit.coefficients
        columns.ready[row] = queue.clear_at if len(queue) else columns.token_s[row] - LATE_S
        if columns.orders:
            for order in columns.orders:
                order.moved(row, columns.ready[row])

    def _weigh_decode(self, row: int) -> None:
        columns = self.decode
        base_s, row_s, token_s = self._rates.decode_step_fit(self._names[row]).coefficients
        rows, context_s = columns.rows[row], token_s * self._contexts[row]
        columns.step_s[row] = (base_s + row_s * self._padded(row, rows) + context_s) if rows else 0.0
        columns.step_with_one_more_s[row] = base_s + row_s * self._padded(row, rows + 1) + context_s
        columns.context_token_s[row] = token_s
        capacity = self._facts[row].kv_tokens_capacity
        columns.capacity_tokens[row] = inf if capacity is None else capacity
        full = columns.reserved_tokens[row] >= columns.capacity_tokens[row]
        columns.ready[row] = columns.step_with_one_more_s[row] + (LATE_S if full else 0.0)
        if columns.orders:
            for order in columns.orders:
                order.moved(row, columns.ready[row])

    def _padded(self, row: int, rows: int) -> int:
        sizes = self._facts[row].captured_batch_sizes
        place = bisect_left(sizes, rows)
        return sizes[place] if place < len(sizes) else rows

"""A pool's workers as places in the memory's columns, so that a decision reads columns and not objects.

Made once for each change of the pool: `fleet.pool` returns a new object whenever the rotation changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from typing import Any, TypeVar

from .fleet import ModelPool, Worker
from .load import DecodeColumns, PrefillColumns
from .memory import RoutingMemory
from .ready_order import ReadyOrder

EXACT = 16
"""A leg of up to so many workers is priced and explained whole."""
T = TypeVar("T")
Gather = Callable[[Sequence[T]], tuple[T, ...]]


@dataclass(frozen=True, slots=True)
class LegView:
    """The workers of one leg, in the pool's order."""

    workers: tuple[Worker, ...]
    row_of: tuple[int, ...]
    """Each worker's place in a column of the load."""
    bit_of: tuple[int, ...]
    """Each worker's bit in the sets of the prefix index."""
    rows: Gather[Any]
    """Picks these workers' entries out of a column of the load."""
    bits: int
    """The set of these workers."""
    place_of: tuple[int, ...]
    """For each bit, the place in the pool of the worker whose it is; 0 for those of other workers."""
    order: ReadyOrder
    """The workers by when they are ready for more; kept up to date for legs of more than `EXACT`."""
    ready: list[float]
    """The column of the load behind that order."""
    newest_since: float
    """When the last of them entered the rotation."""
    group_of: tuple[int, ...]
    """Which of `groups` each worker is in."""
    groups: tuple[Gather[Any] | None, ...]
    """Workers that decode in lockstep, as pickers out of a column; None: a worker by itself."""


@dataclass(frozen=True, slots=True)
class PoolView:
    """Both legs of a model's pool."""

    pool: ModelPool
    bits_version: int
    facts_version: int
    prefill: LegView
    decode: LegView


class PoolViews:
    """The view of each model's pool, made anew when the pool has changed."""

    def __init__(self, memory: RoutingMemory) -> None:
        self._memory = memory
        self._views: dict[str, PoolView] = {}

    def of(self, model: str, pool: ModelPool) -> PoolView:
        """Return the view of `pool`."""
        index, load = self._memory.index, self._memory.load
        view = self._views.get(model)
        if (
            view is None
            or view.pool is not pool
            or view.bits_version != index.bits_version
            or view.facts_version != load.facts_version
        ):
            prefill, decode = self._leg(pool.prefill, load.prefill), self._leg(pool.decode, load.decode)
            view = PoolView(pool, index.bits_version, load.facts_version, prefill, decode)
            self._views[model] = view
        return view

    def _leg(self, workers: Sequence[Worker], columns: PrefillColumns | DecodeColumns) -> LegView:
        names = [worker.name for worker in workers]
        rows = [self._memory.load.row(name) for name in names]
        bits = [self._memory.index.bit(name) for name in names]
        places = {bit.bit_length() - 1: place for place, bit in enumerate(bits)}
        group_of, groups = self._groups(names, rows)
        order = ReadyOrder(rows, columns.ready)
        if len(rows) > EXACT:
            columns.orders.add(order)
        return LegView(
            tuple(workers),
            tuple(rows),
            tuple(bits),
            _gather(rows),
            sum(bits),
            tuple(places.get(number, 0) for number in range(max(places, default=0) + 1)),
            order,
            columns.ready,
            max((worker.since for worker in workers), default=-inf),
            group_of,
            groups,
        )

    def _groups(
        self, names: Sequence[str], rows: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[Gather[Any] | None, ...]]:
        members: dict[tuple[str, str], list[int]] = {}
        numbers: dict[tuple[str, str], int] = {}
        group_of = []
        for name, row in zip(names, rows, strict=True):
            group = self._memory.load.facts(name).lockstep_group
            key = ("worker", name) if group is None else ("group", group)
            group_of.append(numbers.setdefault(key, len(numbers)))
            members.setdefault(key, []).append(row)
        return tuple(group_of), tuple(
            _gather(places) if len(places) > 1 else None for places in members.values()
        )


def _gather(places: Sequence[int]) -> Gather[Any]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda column: tuple(column[place] for place in places)

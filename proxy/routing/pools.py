"""A pool's workers beside their rows of the memory's load, so that a decision looks nothing up by name.

Made once for each change of the pool: `fleet.pool` returns a new object whenever the rotation changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from .fleet import Fleet, ModelPool, Worker
from .load import DecodeRow, PrefillRow
from .memory import RoutingMemory
from .observer import Leg
from .ready_order import ReadyOrder

EXACT: Final = 16
"""A leg of up to so many workers is priced and explained whole."""


@dataclass(frozen=True)
class LegView:
    """The workers of one leg, in the pool's order."""

    workers: tuple[Worker, ...]
    queues: tuple[PrefillRow, ...]
    """What each has to prefill."""
    steps: tuple[DecodeRow, ...]
    """What each decodes."""
    bit_of: tuple[int, ...]
    """Each worker's bit in the sets of the prefix index."""
    bits: int
    """The set of these workers."""
    place_of: tuple[int, ...]
    """For each bit, the place in the pool of the worker whose it is; 0 for those of other workers."""
    order: ReadyOrder | None
    """The workers by when they are ready for more; None for legs of up to `EXACT`."""
    newest_since: float
    """When the last of them entered the rotation."""
    needs_partners: bool
    """Whether some of them decode only what a prefill worker hands over."""

    def place(self, bit: int, name: str) -> int | None:
        """Return the place of the worker with this bit and name; None if it is not in the pool."""
        if not bit & self.bits:
            return None
        place = self.place_of[bit.bit_length() - 1]
        return place if self.workers[place].name == name else None


@dataclass
class PoolView:
    """Both legs of a model's pool."""

    pool: ModelPool
    bits_version: int
    prefill: LegView
    decode: LegView
    _handshakes: int = -1
    _partners: dict[int, frozenset[int]] = field(default_factory=dict)

    def partners(self, fleet: Fleet, decode: int) -> frozenset[int]:
        """Return the places of the prefill workers that a decode worker may pull KV from."""
        if self._handshakes != fleet.handshakes:
            self._handshakes = fleet.handshakes
            self._partners.clear()
        found = self._partners.get(decode)
        if found is None:
            taker = self.decode.workers[decode]
            found = self._partners[decode] = frozenset(
                place
                for place, giver in enumerate(self.prefill.workers)
                if giver is not taker and fleet.may_pair(giver, taker)
            )
        return found


class PoolViews:
    """The view of each model's pool, made anew when the pool has changed."""

    def __init__(self, memory: RoutingMemory) -> None:
        self._memory = memory
        self._views: dict[str, PoolView] = {}

    def of(self, model: str, pool: ModelPool) -> PoolView:
        """Return the view of `pool`."""
        view = self._views.get(model)
        version = self._memory.index.bits_version
        if view is None or view.pool is not pool or view.bits_version != version:
            prefill, decode = self._leg(pool.prefill, Leg.PREFILL), self._leg(pool.decode, Leg.DECODE)
            view = PoolView(pool, self._memory.index.bits_version, prefill, decode)
            self._views[model] = view
        return view

    def _leg(self, workers: Sequence[Worker], leg: Leg) -> LegView:
        load, index = self._memory.load, self._memory.index
        numbers = [load.number(worker.name) for worker in workers]
        bits = [index.bit(worker.name) for worker in workers]
        places = {bit.bit_length() - 1: place for place, bit in enumerate(bits)}
        ordered = load.prefill_order if leg is Leg.PREFILL else load.decode_order
        return LegView(
            tuple(workers),
            tuple(load.prefill[number] for number in numbers),
            tuple(load.decode[number] for number in numbers),
            tuple(bits),
            sum(bits),
            tuple(places.get(number, 0) for number in range(max(places, default=0) + 1)),
            ordered(numbers) if len(numbers) > EXACT else None,
            max((worker.since for worker in workers), default=-inf),
            any(worker.needs_partner for worker in workers),
        )

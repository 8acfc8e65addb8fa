"""What policies share that choose each leg by itself: decode first, then prefill among its partners."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

from .fleet import Fleet, Worker
from .observer import Leg
from .policy import Decision, candidates, partners
from .view import RequestView
from .why import Row, Why

Terms = tuple[float, ...]


class ByLeg(ABC):
    """Takes the worker with the least last term on either leg; ties by lot."""

    unit: str
    names: tuple[str, ...]
    """Names of the terms; the last is compared, and less is better."""

    def __init__(self, seed: int) -> None:
        self._lot = random.Random(seed)  # noqa: S311 (a lot, no secret)

    @abstractmethod
    def weigh(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> list[Terms]:
        """Return the terms of each of `workers`, in their order."""

    def decide(self, request: RequestView, fleet: Fleet, now: float) -> Decision | None:
        """Return the best decode worker and the best of its partners."""
        able = candidates(fleet.pool(request.model).decode, request.tried_decode, now)
        if not able:
            return None
        decode_terms = self.weigh(Leg.DECODE, request, able, now)
        rows: list[Row] = [(None, worker, terms) for worker, terms in zip(able, decode_terms, strict=True)]
        chosen = [rows.pop(self._least(decode_terms))]
        decode = chosen[0][1]
        assert decode is not None
        prefill = None
        splits = decode.needs_partner or self.splits(request, decode, now)
        if splits and (able := partners(request, fleet, decode, now)):
            prefill_terms = self.weigh(Leg.PREFILL, request, able, now)
            others: list[Row] = [
                (worker, None, terms) for worker, terms in zip(able, prefill_terms, strict=True)
            ]
            chosen.append(others.pop(self._least(prefill_terms)))
            prefill = chosen[1][0]
            rows += others
        return Decision(decode, prefill, Why(self.unit, self.names, lambda: chosen + rows, len(chosen)))

    def splits(self, request: RequestView, decode: Worker, now: float) -> bool:
        """Whether the request shall be prefilled elsewhere, now that `decode` is chosen."""
        return True

    def _least(self, terms: Sequence[Terms]) -> int:
        least = min(row[-1] for row in terms)
        ties = [place for place, row in enumerate(terms) if row[-1] == least]
        return ties[0] if len(ties) == 1 else self._lot.choice(ties)


def requests_in_flight(leg: Leg, worker: Worker) -> int:
    """Return how many requests `worker` has on the leg."""
    return worker.prefill_requests if leg is Leg.PREFILL else worker.decode_requests

"""The less busy of two workers drawn by lot, per leg."""

from collections.abc import Sequence
from math import inf

from .by_leg import ByLeg, Terms, requests_in_flight
from .fleet import Worker
from .observer import Leg
from .policy_config import PolicyConfig
from .view import RequestView


class PowerOfTwoConfig(PolicyConfig, frozen=True, kw_only=True, tag="power_of_two"):
    """Settings of `power_of_two`."""

    seed: int = 0


class PowerOfTwo(ByLeg):
    """Compares requests in flight."""

    unit = "requests"
    names = ("requests",)

    def __init__(self, config: PowerOfTwoConfig) -> None:
        super().__init__(config.seed)

    def weigh(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> list[Terms]:
        """Return the load of the two that were drawn, infinity for the others."""
        drawn = self._lot.sample(range(len(workers)), min(2, len(workers)))
        terms: list[Terms] = [(inf,)] * len(workers)
        for place in drawn:
            terms[place] = (requests_in_flight(leg, workers[place]),)
        return terms

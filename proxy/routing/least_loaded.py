"""The worker with the fewest requests in flight, per leg."""

from collections.abc import Sequence

from .by_leg import ByLeg, Terms, requests_in_flight
from .fleet import Worker
from .observer import Leg
from .policy_config import PolicyConfig
from .view import RequestView


class LeastLoadedConfig(PolicyConfig, frozen=True, kw_only=True, tag="least_loaded"):
    """Settings of `least_loaded`."""

    seed: int = 0


class LeastLoaded(ByLeg):
    """Counts requests, whatever their length."""

    unit = "requests"
    names = ("requests",)

    def __init__(self, config: LeastLoadedConfig) -> None:
        super().__init__(config.seed)

    def weigh(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> list[Terms]:
        """Return the requests in flight."""
        return [(requests_in_flight(leg, worker),) for worker in workers]

"""Any worker, with equal chances, per leg."""

from collections.abc import Sequence

from .by_leg import ByLeg, Terms
from .fleet import Worker
from .observer import Leg
from .policy_config import PolicyConfig
from .view import RequestView


class RandomConfig(PolicyConfig, frozen=True, kw_only=True, tag="random"):
    """Settings of `random`."""

    seed: int = 0


class RandomChoice(ByLeg):
    """Ties by lot, and all tie."""

    unit = ""
    names = ("lot",)

    def __init__(self, config: RandomConfig) -> None:
        super().__init__(config.seed)

    def weigh(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> list[Terms]:
        """Return nothing that tells workers apart."""
        return [(0.0,)] * len(workers)

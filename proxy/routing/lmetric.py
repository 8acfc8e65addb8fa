"""LMetric's product: tokens that would have to be computed, times requests already there. No weights.

After "LMetric" (arXiv 2603.15202), per leg: the tokens queued for prefill and those of the request that are
not there, be it to compute them or, on decode, to bring their KV.
"""

from collections.abc import Sequence

from .by_leg import ByLeg, Terms, requests_in_flight
from .fleet import Worker
from .memory import RoutingMemory
from .memory_config import IndexConfig
from .observer import Leg
from .policy_config import PolicyConfig
from .view import RequestView


class LMetricConfig(PolicyConfig, frozen=True, kw_only=True, tag="lmetric"):
    """Settings of `lmetric`."""

    seed: int = 0
    index: IndexConfig = IndexConfig()


class LMetric(ByLeg):
    """Smallest product of work and crowd."""

    unit = "tokens x requests"
    names = ("tokens", "requests", "product")

    def __init__(self, config: LMetricConfig, memory: RoutingMemory) -> None:
        super().__init__(config.seed)
        self._memory = memory

    def weigh(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> list[Terms]:
        """Return both factors and their product."""
        memory = self._memory
        found = memory.match(request, now).by_worker()
        rows: list[Terms] = []
        for worker in workers:
            queued = memory.load.prefill_row(worker.name).uncached_tokens
            cached = memory.cached_tokens(request, worker.name, found.get(worker.name, 0))
            tokens = queued + request.prompt_tokens - cached
            crowd = requests_in_flight(leg, worker) + 1
            rows.append((tokens, crowd, tokens * crowd))
        return rows

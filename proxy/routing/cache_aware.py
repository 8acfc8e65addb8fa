"""SGLang's rule: the best prefix match while the fleet is balanced, the shortest queue when it is not.

imbalanced  iff  max - min > balance_abs_threshold  and  max > balance_rel_threshold * min
imbalanced          -> fewest requests in flight
match > threshold   -> best match
else                -> fewest chunks learned ("smallest tree")
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from .by_leg import ByLeg, Terms, requests_in_flight
from .fleet import Worker
from .memory import RoutingMemory
from .memory_config import IndexConfig
from .observer import Leg
from .policy_config import PolicyConfig
from .view import RequestView


class CacheAwareConfig(PolicyConfig, frozen=True, kw_only=True, tag="cache_aware"):
    """Settings of `cache_aware`; the defaults are SGLang's."""

    cache_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3
    balance_abs_threshold: Annotated[int, msgspec.Meta(ge=0)] = 64
    balance_rel_threshold: Annotated[float, msgspec.Meta(ge=1)] = 1.5
    seed: int = 0
    index: IndexConfig = IndexConfig()


class CacheAware(ByLeg):
    """The same rule on both legs."""

    unit = "by rule"
    names = ("requests", "match", "learned_chunks", "rank")

    def __init__(self, config: CacheAwareConfig, memory: RoutingMemory) -> None:
        super().__init__(config.seed)
        self._config = config
        self._memory = memory

    def weigh(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> list[Terms]:
        """Return load, match and size of each worker, and the one of them that counts now."""
        config = self._config
        loads = [requests_in_flight(leg, worker) for worker in workers]
        found = self._memory.match(request, now).by_worker()
        total = max(len(self._memory.keys(request)), 1)
        matches = [found.get(worker.name, 0) / total for worker in workers]
        sizes = [self._memory.learned_chunks[worker.name] for worker in workers]
        spread = max(loads) - min(loads)
        if spread > config.balance_abs_threshold and max(loads) > config.balance_rel_threshold * min(loads):
            ranks: Sequence[float] = loads
        elif max(matches) > config.cache_threshold:
            ranks = [-match for match in matches]
        else:
            ranks = sizes
        return list(zip(loads, matches, sizes, ranks, strict=True))

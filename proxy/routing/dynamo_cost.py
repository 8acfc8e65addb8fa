"""Dynamo's cost in blocks: those to prefill, less credit for those cached, plus those being decoded.

    cost = prefill_load_scale * max(queued + prompt - overlap_credit * matched, 0) + decoding

The prefill leg knows no decode blocks. The decode leg gives no credit for overlap unless it is told to.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from .by_leg import ByLeg, Terms
from .fleet import Worker
from .memory import RoutingMemory
from .memory_config import IndexConfig
from .observer import Leg
from .policy_config import PolicyConfig
from .view import RequestView


class DynamoCostConfig(PolicyConfig, frozen=True, kw_only=True, tag="dynamo_cost"):
    """Settings of `dynamo_cost`; the defaults are Dynamo's."""

    overlap_credit: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    decode_overlap_credit: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    prefill_load_scale: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    block_tokens: Annotated[int, msgspec.Meta(ge=1)] = 64
    seed: int = 0
    index: IndexConfig = IndexConfig()


class DynamoCost(ByLeg):
    """One cost a leg, at temperature zero."""

    unit = "blocks"
    names = ("queued", "prompt", "credit", "decoding", "cost")

    def __init__(self, config: DynamoCostConfig, memory: RoutingMemory) -> None:
        super().__init__(config.seed)
        self._config = config
        self._memory = memory

    def weigh(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> list[Terms]:
        """Return the cost of each worker with its parts."""
        config, load = self._config, self._memory.load
        found = self._memory.match(request, now).by_worker()
        prompt = request.prompt_tokens / config.block_tokens
        credit = config.overlap_credit if leg is Leg.PREFILL else config.decode_overlap_credit
        rows: list[Terms] = []
        for worker in workers:
            queued = load.prefill_row(worker.name).uncached_tokens / config.block_tokens
            matched = found.get(worker.name, 0) * request.key_tokens / config.block_tokens
            reserved = load.decode_row(worker.name).reserved_tokens if leg is Leg.DECODE else 0.0
            decoding = reserved / config.block_tokens
            to_compute = max(queued + prompt - credit * matched, 0.0)
            cost = config.prefill_load_scale * to_compute + decoding
            rows.append((queued, prompt, credit * matched, decoding, cost))
        return rows

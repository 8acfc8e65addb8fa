"""Settings of `pair_cost`."""

from typing import Annotated

import msgspec

from .memory_config import KV_BYTES_PER_TOKEN, IndexConfig, MemorySettings
from .policy_config import PolicyConfig
from .rate_config import RateConfig

Scale = Annotated[float, msgspec.Meta(ge=0)]


class Scales(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Factors of the terms; 0 switches a term off."""

    wait: Scale = 1.0
    prefill: Scale = 1.0
    backlog: Scale = 2.0
    """Added to `prefill` for each prompt that waits at a worker, in the mean of those priced: while there are
    queues, a second of work is a second for everyone behind it."""
    transfer: Scale = 1.0
    decode_wait: Scale = 1.0
    step: Scale = 0.3
    """Of the seconds that the request and all who decode with it lose in their steps."""
    interference: Scale = 3.0
    """Of the prefill term of a prompt computed on decode, as `prefill` and `backlog` have scaled it, for each
    sequence that decodes in step with it: while there are queues, their seconds too count for more."""
    overdue: Scale = 1.0
    """Of the seconds by which a worker's next answer is late."""


class PairCostConfig(PolicyConfig, frozen=True, kw_only=True, tag="pair_cost"):
    """Settings of `pair_cost`."""

    scales: Scales = Scales()
    decode_alone: bool = True
    """Whether decode may compute a prompt itself where that is cheaper. Without a prefill worker it must."""
    alone_tokens: Annotated[int, msgspec.Meta(ge=0)] = 1024
    """At most so many uncached tokens: more would be felt by all who decode until it is done, or begin to."""
    slow_start_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """A worker that entered the rotation less than this ago costs more than older ones, less and less."""
    slow_start_cost_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """How much more at first."""
    missed_probe_cost_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """What each probe in a row that went unanswered costs a worker."""
    session_cost_s: Annotated[float, msgspec.Meta(ge=0)] = 0.2
    """What it costs a request, on each leg, to leave the worker that served its session last."""
    kv_bytes_per_token: Annotated[float, msgspec.Meta(gt=0)] = KV_BYTES_PER_TOKEN
    """Size of one token's KV."""
    index: IndexConfig = IndexConfig()
    rates: RateConfig = RateConfig()

    def memory_settings(self) -> MemorySettings:
        """Return what its memory goes by."""
        return MemorySettings(index=self.index, rates=self.rates, kv_bytes_per_token=self.kv_bytes_per_token)

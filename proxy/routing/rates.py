"""How long prefill, transfer and decode steps take, fitted for each worker and link to the proxy's timings.

    prefill  = base + per_token * uncached tokens + per_pair * (uncached token, token it attends to) pairs
    transfer = base + per_byte * bytes                               for each (prefill, decode) link
    step     = base + per_row * sequences in the batch + per_context_token * tokens of context in the batch

A fit that is settled learns at an even pace, however much traffic there is: resting on its last hundred
observations, it would else follow the last tenth of a second, and cost more than all decisions. `due_at`
of a fit says when an observation is wanted.

The policy file gives the priors. A worker or link that is new starts from what its fleet has taught so far,
and a fleet that is new from the priors. No clock, no I/O.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from .least_squares import SETTLED, DecayedFit
from .rate_config import RateConfig

Key = TypeVar("Key", bound=Hashable)

PAUSE_S = 0.05
"""Between two observations of one settled fit."""


class Rates:
    """Expected seconds, for policies; and what the exchanges measured, to learn from."""

    def __init__(self, config: RateConfig) -> None:
        prefill, transfer, step = config.prefill, config.transfer, config.decode_step
        self._prefill: _Fits[str] = _Fits(config, (prefill.base_s, prefill.per_token_s, prefill.per_pair_s))
        self._transfer: _Fits[tuple[str, str]] = _Fits(config, (transfer.base_s, transfer.per_byte_s))
        self._step: _Fits[str] = _Fits(config, (step.base_s, step.per_row_s, step.per_context_token_s))

    def prefilled_several(
        self,
        worker: str,
        *,
        prompts: int,
        uncached_tokens: float,
        pairs: float,
        seconds: float,
        now: float,
    ) -> None:
        """Learn how long a worker took over several prompts without a pause."""
        self._prefill.observe(worker, (prompts, uncached_tokens, pairs), seconds, now)

    def transferred(self, prefill: str, decode: str, *, kv_bytes: int, seconds: float, now: float) -> None:
        """Learn how long a transfer took."""
        self._transfer.observe((prefill, decode), (1.0, kv_bytes), seconds, now)

    def decoded(self, worker: str, *, rows: float, context_tokens: float, seconds: float, now: float) -> None:
        """Learn how long a decode step took."""
        self._step.observe(worker, (1.0, rows, context_tokens), seconds, now)

    def prefill_fit(self, worker: str) -> DecayedFit:
        """Return the worker's fit, for display: base, per token, per pair."""
        return self._prefill.fit(worker)

    def transfer_fit(self, prefill: str, decode: str) -> DecayedFit:
        """Return the link's fit, for display: base, per byte."""
        return self._transfer.fit((prefill, decode))

    @property
    def links(self) -> tuple[dict[tuple[str, str], DecayedFit], DecayedFit]:
        """The links that have a fit of their own, and the fit of all others."""
        return self._transfer.members, self._transfer.fleet

    @property
    def fleet_transfer_fit(self) -> DecayedFit:
        """The fit of all links together, which stands for those that were not seen: base, per byte."""
        return self._transfer.fleet

    def decode_step_fit(self, worker: str) -> DecayedFit:
        """Return the worker's fit, for display: base, per row, per context token."""
        return self._step.fit(worker)

    def forget(self, worker: str) -> None:
        """Drop what was learned of a worker that was replaced or removed."""
        self._prefill.forget({worker})
        self._step.forget({worker})
        self._transfer.forget({link for link in self._transfer.keys if worker in link})


def attended_pairs(uncached_tokens: float, cached_tokens: float) -> float:
    """Return how many (computed token, token it attends to) pairs a causal prefill has."""
    return uncached_tokens * (cached_tokens + uncached_tokens / 2)


class _Fits(Generic[Key]):
    """One fit for the fleet, and one for each member that was seen lately."""

    def __init__(self, config: RateConfig, prior: Sequence[float]) -> None:
        self._config = config
        self.fleet = self._start(prior)
        self.members: OrderedDict[Key, DecayedFit] = OrderedDict()

    @property
    def keys(self) -> list[Key]:
        return list(self.members)

    def fit(self, key: Key) -> DecayedFit:
        return self.members.get(key, self.fleet)

    def observe(self, key: Key, features: Sequence[float], seconds: float, now: float) -> None:
        member = self.members.get(key)
        if member is None:
            learned = zip(self.fleet.coefficients, self.fleet.prior, strict=True)
            member = self._start([max(value, prior / 1000) for value, prior in learned])
        member.observe(features, seconds)
        if member.observations >= SETTLED:
            member.due_at = now + PAUSE_S
        self.fleet.observe(features, seconds)
        self.members[key] = member
        self.members.move_to_end(key)
        if len(self.members) > self._config.most_links:
            self.members.popitem(last=False)

    def forget(self, keys: set[Key]) -> None:
        for key in keys:
            self.members.pop(key, None)

    def _start(self, prior: Sequence[float]) -> DecayedFit:
        return DecayedFit(
            prior, memory=self._config.memory_observations, prior_weight=self._config.prior_observations
        )

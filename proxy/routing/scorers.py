"""llm-d's shape: one profile a leg, of filters, weighted scorers in [0, 1] and a picker.

    total(worker) = sum of weight * score(worker), over the workers that pass every filter

A scorer or filter is one function in the tables below; a score outside [0, 1] is cut off.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated

import msgspec

from .by_leg import ByLeg, Terms, requests_in_flight
from .fleet import Worker
from .memory import RoutingMemory
from .memory_config import IndexConfig
from .observer import Leg
from .policy_config import PolicyConfig
from .view import RequestView


class ScorerName(enum.Enum):
    """What a profile can weigh."""

    PREFIX = "prefix"
    """Matched share of the prompt."""
    QUEUE = "queue"
    """1 for the fewest requests in flight, 0 for the most."""
    TOKEN_LOAD = "token_load"  # noqa: S105 (a name, no secret)
    """Tokens in flight against `token_load_threshold`."""
    LOAD_AWARE = "load_aware"
    """0.5 when idle, falling to 0 at `load_aware_threshold` requests."""
    SESSION = "session"
    """1 for the worker that served the request's session last."""


class FilterName(enum.Enum):
    """What a profile can require."""

    PREFIX_AFFINITY = "prefix_affinity"
    """Workers with at least `affinity_threshold` of the prompt, if there are any."""
    UNCROWDED = "uncrowded"
    """Workers with fewer than `load_aware_threshold` requests, if there are any."""


class Weight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scorer of a profile."""

    scorer: ScorerName
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one leg is placed; the picker takes the highest total, ties by lot."""

    filters: tuple[FilterName, ...] = ()
    scorers: Annotated[tuple[Weight, ...], msgspec.Meta(min_length=1)] = (
        Weight(scorer=ScorerName.PREFIX, weight=2.0),
        Weight(scorer=ScorerName.QUEUE, weight=1.0),
    )


class ScorersConfig(PolicyConfig, frozen=True, kw_only=True, tag="scorers"):
    """Settings of `scorers`; the defaults are those that llm-d ships for prefill and decode."""

    prefill: Profile = Profile()
    decode: Profile = Profile()
    non_cached_tokens: Annotated[int, msgspec.Meta(ge=0)] = 16
    """Prefill elsewhere only if the chosen decode worker lacks at least so many tokens of the prompt."""
    affinity_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.8
    token_load_threshold: Annotated[int, msgspec.Meta(ge=1)] = 4_194_304
    load_aware_threshold: Annotated[int, msgspec.Meta(ge=1)] = 128
    seed: int = 0
    index: IndexConfig = IndexConfig()


@dataclass(frozen=True, slots=True)
class _Facts:
    """What scorers and filters read, one entry a worker."""

    match: list[float]
    requests: list[int]
    tokens: list[int]
    session: list[float]


class Scorers(ByLeg):
    """The highest weighted sum of scores."""

    unit = "score"
    names = ("prefix", "queue", "token_load", "load_aware", "session", "less_is_better")

    def __init__(self, config: ScorersConfig, memory: RoutingMemory) -> None:
        super().__init__(config.seed)
        self._config = config
        self._memory = memory

    def splits(self, request: RequestView, decode: Worker, now: float) -> bool:
        """Whether enough of the prompt is missing on the decode worker."""
        chunks = self._memory.match(request, now).chunks(decode.name)
        missing = request.prompt_tokens - chunks * request.key_tokens
        return missing >= self._config.non_cached_tokens

    def weigh(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> list[Terms]:
        """Return the scores of each worker, and its total with the sign turned; infinity if filtered out."""
        profile = self._config.prefill if leg is Leg.PREFILL else self._config.decode
        facts = self._facts(leg, request, workers, now)
        scores = {name: _clamped(SCORERS[name](facts, self._config)) for name in ScorerName}
        totals = [
            sum(entry.weight * scores[entry.scorer][place] for entry in profile.scorers)
            for place in range(len(workers))
        ]
        passed = set(range(len(workers)))
        for name in profile.filters:
            passed = passed & FILTERS[name](facts, self._config) or passed
        return [
            (*(scores[name][place] for name in ScorerName), -totals[place] if place in passed else inf)
            for place in range(len(workers))
        ]

    def _facts(self, leg: Leg, request: RequestView, workers: Sequence[Worker], now: float) -> _Facts:
        found = self._memory.match(request, now).by_worker()
        total = max(len(self._memory.keys(request)), 1)
        last = self._memory.sessions.last(request, leg, now)
        return _Facts(
            [found.get(worker.name, 0) / total for worker in workers],
            [requests_in_flight(leg, worker) for worker in workers],
            [w.prefill_tokens if leg is Leg.PREFILL else w.decode_tokens for w in workers],
            [float(worker.name == last) for worker in workers],
        )


def _clamped(scores: list[float]) -> list[float]:
    return [min(max(score, 0.0), 1.0) for score in scores]


def _queue(facts: _Facts, config: ScorersConfig) -> list[float]:
    most, fewest = max(facts.requests), min(facts.requests)
    span = max(most - fewest, 1)
    return [1.0 if most == fewest else (most - requests) / span for requests in facts.requests]


def _token_load(facts: _Facts, config: ScorersConfig) -> list[float]:
    return [1.0 - tokens / config.token_load_threshold for tokens in facts.tokens]


def _load_aware(facts: _Facts, config: ScorersConfig) -> list[float]:
    return [0.5 * (1.0 - requests / config.load_aware_threshold) for requests in facts.requests]


SCORERS: dict[ScorerName, Callable[[_Facts, ScorersConfig], list[float]]] = {
    ScorerName.PREFIX: lambda facts, config: facts.match,
    ScorerName.QUEUE: _queue,
    ScorerName.TOKEN_LOAD: _token_load,
    ScorerName.LOAD_AWARE: _load_aware,
    ScorerName.SESSION: lambda facts, config: facts.session,
}
FILTERS: dict[FilterName, Callable[[_Facts, ScorersConfig], set[int]]] = {
    FilterName.PREFIX_AFFINITY: lambda facts, config: {
        place for place, match in enumerate(facts.match) if match >= config.affinity_threshold
    },
    FilterName.UNCROWDED: lambda facts, config: {
        place for place, requests in enumerate(facts.requests) if requests < config.load_aware_threshold
    },
}

"""Everything that routing remembers in one proxy: fleet, policy, hand-over ledger, ids, outcomes."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from .fleet import Fleet
from .ids import RequestIds
from .least_tokens import LeastTokens
from .ledger import Ledger
from .policy import Policy
from .round_robin import RoundRobin

POLICIES: dict[str, Callable[[], Policy]] = {
    "round_robin": RoundRobin,
    "least_tokens": LeastTokens,
}
"""Policies by the name that a configuration gives."""


class Outcome(enum.Enum):
    """How a request ended, for metrics."""

    __hash__ = object.__hash__  # members are single objects: no need to hash their names anew each time

    SERVED = "served"
    REJECTED = "rejected"
    """A worker found fault with the request (4xx)."""
    UNAVAILABLE = "unavailable"
    """No worker could take it."""
    FAILED = "failed"
    """Every worker that was asked failed."""
    BROKEN = "broken"
    """The answer ended early, after its first byte."""
    CANCELLED = "cancelled"
    """The client left."""


@dataclass(slots=True)
class RoutingCounts:
    """What happened since the start."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    retries: dict[str, int] = field(default_factory=lambda: {"prefill": 0, "decode": 0})
    """Failures before the first byte after which the request was tried elsewhere, by the leg that failed."""
    split: int = 0
    """Requests whose KV was handed over."""
    decode_alone: int = 0
    """Decode legs sent without KV, whatever the reason."""


@dataclass(slots=True)
class Router:
    """The routing state of one proxy."""

    fleet: Fleet
    policy: Policy
    max_lost_attempts: int = 3
    """A request whose worker died or hung this often is not tried again: it may be what kills them."""
    ledger: Ledger = field(default_factory=Ledger)
    ids: RequestIds = field(default_factory=RequestIds)
    counts: RoutingCounts = field(default_factory=RoutingCounts)

"""Everything that routing remembers in one proxy: fleet, policy, admission, KV hand-overs, ids, outcomes."""

import enum
from dataclasses import dataclass, field

from .admission import Admission
from .admission_config import AdmissionConfig
from .books import book, decode_done, prefill_done
from .fleet import Fleet
from .ids import RequestIds
from .ledger import Ledger
from .observer import Leg, Observer
from .policy import Decision, Policy
from .policy_file import DEFAULTS
from .view import RequestView

POLICIES = tuple(DEFAULTS)
"""Policies by the name that a configuration may give."""


class Outcome(enum.Enum):
    """How a request ended, for metrics."""

    __hash__ = object.__hash__  # members are single objects: no need to hash their names anew each time

    SERVED = "served"
    REJECTED = "rejected"
    """A worker found fault with the request (4xx)."""
    UNAVAILABLE = "unavailable"
    """No worker could take it."""
    OVERLOADED = "overloaded"
    """No worker had room for it in time."""
    FAILED = "failed"
    """Every worker that was asked failed."""
    BROKEN = "broken"
    """The answer ended early, after its first byte."""
    CANCELLED = "cancelled"
    """The client left."""


@dataclass
class RoutingCounts:
    """What happened since the start."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    retries: dict[str, int] = field(default_factory=lambda: {"prefill": 0, "decode": 0})
    """Failures before the first byte after which the request was tried elsewhere, by the leg that failed."""
    split: int = 0
    """Requests whose KV was handed over."""
    orphans: int = 0
    """Requests of another process that died, which this one had their workers end."""
    resumed: int = 0
    """Streams that broke off and were continued to their end by another worker."""
    decode_alone: int = 0
    """Decode legs sent without KV, whatever the reason."""


@dataclass
class Router:
    """The routing state of one proxy."""

    fleet: Fleet
    policy: Policy
    max_lost_attempts: int = 3
    """A request whose worker died or hung this often is not tried again: it may be what kills them."""
    observers: tuple[Observer, ...] = ()
    """Told of what happens to each request after it was decided."""
    admission_config: AdmissionConfig = field(default_factory=AdmissionConfig)
    ledger: Ledger = field(default_factory=Ledger)
    ids: RequestIds = field(default_factory=RequestIds)
    counts: RoutingCounts = field(default_factory=RoutingCounts)
    admission: Admission = field(init=False)

    def __post_init__(self) -> None:
        self.admission = Admission(self.admission_config, self.choose)
        self.fleet.on_restart += [observer.restarted for observer in self.observers]

    def choose(self, request: RequestView, now: float) -> Decision | None:
        """Have the policy choose, and book the work on whom it chose: the next choice sees it."""
        decision = self._decide(request, now)
        if decision is not None:
            book(request, decision)
            for observer in self.observers:
                observer.dispatched(request, decision, now)
        return decision

    def _decide(self, request: RequestView, now: float) -> Decision | None:
        """Ask the policy; a worker that needs a partner, and is named without one, has none left."""
        tried = request.tried_decode
        try:
            while True:
                decision = self.policy.decide(request, self.fleet, now)
                if decision is None or decision.prefill is not None or not decision.decode.needs_partner:
                    return decision
                request.tried_decode = request.tried_decode | {decision.decode.name}
        finally:
            request.tried_decode = tried

    def failed(self, request: RequestView, leg: Leg, now: float) -> None:
        """Tell that a leg failed, before its first byte or after."""
        for observer in self.observers:
            observer.failed(request, leg, now)

    def unbook(self, request: RequestView, decision: Decision, now: float) -> None:
        """Take a choice that is not carried out off the books."""
        self.failed(request, Leg.DECODE, now)
        prefill_done(request, decision)
        decode_done(request, decision)

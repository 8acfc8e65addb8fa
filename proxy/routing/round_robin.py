"""Each worker in turn, per role, whatever it has to do."""

from collections.abc import Sequence

from .fleet import Fleet, Worker
from .policy import Decision, candidates, partners
from .policy_config import PolicyConfig
from .view import RequestView


class RoundRobinConfig(PolicyConfig, frozen=True, kw_only=True, tag="round_robin"):
    """Settings of `round_robin`: none."""


class RoundRobin:
    """Takes decode workers in turn, and for each of them its prefill partners in turn."""

    def __init__(self) -> None:
        self._turn = {"prefill": 0, "decode": 0}

    def decide(self, request: RequestView, fleet: Fleet, now: float) -> Decision | None:
        """Return the next decode worker and the next of its partners."""
        decode = self._next("decode", candidates(fleet.pool(request.model).decode, request.tried_decode, now))
        if decode is None:
            return None
        return Decision(decode, self._next("prefill", partners(request, fleet, decode, now)))

    def _next(self, leg: str, workers: Sequence[Worker]) -> Worker | None:
        if not workers:
            return None
        turn = self._turn[leg]
        self._turn[leg] = turn + 1
        return workers[turn % len(workers)]

"""The worker with the fewest tokens in flight, per role: prompt tokens for prefill, all tokens for decode."""

from .fleet import Fleet, Worker
from .policy import Decision, candidates, partners
from .policy_config import PolicyConfig
from .view import RequestView


class LeastTokensConfig(PolicyConfig, frozen=True, kw_only=True, tag="least_tokens"):
    """Settings of `least_tokens`: none."""


class LeastTokens:
    """Ties go to the worker that was chosen longest ago."""

    def __init__(self) -> None:
        self._decisions = 0
        self._chosen: dict[str, int] = {}

    def decide(self, request: RequestView, fleet: Fleet, now: float) -> Decision | None:
        """Return the least loaded decode worker and the least loaded of its partners."""
        able = candidates(fleet.pool(request.model).decode, request.tried_decode, now)
        if not able:
            return None
        self._decisions += 1
        decode = min(able, key=lambda worker: (worker.decode_tokens, self._last(worker)))
        self._chosen[decode.name] = self._decisions
        prefill = min(
            partners(request, fleet, decode, now),
            key=lambda worker: (worker.prefill_tokens, self._last(worker)),
            default=None,
        )
        if prefill is not None:
            self._chosen[prefill.name] = self._decisions
        return Decision(decode, prefill)

    def _last(self, worker: Worker) -> int:
        return self._chosen.get(worker.name, 0)

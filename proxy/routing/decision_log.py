"""The last decisions, with what was compared and how long each phase then took.

An `Observer`. What was weighed is kept as the policy left it and becomes named terms only when asked for.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from .observer import Leg, Observer
from .policy import Decision
from .view import RequestView


class Attempt:
    """One decision and what came of it."""

    __slots__ = (
        "cached_tokens", "decided_at", "decision", "failed_at", "failed_leg", "prefilled_at", "prompt_tokens",
        "streaming_at", "version",
    )  # fmt: skip

    def __init__(self, decision: Decision, version: str, decided_at: float) -> None:
        self.decision = decision
        self.version = version
        self.decided_at = decided_at
        self.prefilled_at: float | None = None
        self.streaming_at: float | None = None
        self.failed_at: float | None = None
        self.failed_leg: Leg | None = None
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        """Both as the worker that computed the prompt tells."""


class Record:
    """One request."""

    __slots__ = ("attempts", "ended_at", "output_tokens", "request", "told", "waited_s")

    def __init__(self, request: RequestView) -> None:
        self.request = request
        self.attempts: list[Attempt] = []
        self.waited_s = 0.0
        self.ended_at: float | None = None
        self.output_tokens: int | None = None
        self.told: dict[str, msgspec.Raw] = {}
        """By leg: the account that a worker gave of itself."""


class DecisionLog(Observer):
    """The last requests, by their id; of two with the same id, the later."""

    def __init__(self, most: int, version_of: Callable[[str], str]) -> None:
        """Keep `most`; `version_of` returns the version of a model's policy."""
        self._most = most
        self._version_of = version_of
        self._records: OrderedDict[str, Record] = OrderedDict()

    def find(self, request_id: str) -> Record | None:
        """Return what is known of a request."""
        return self._records.get(request_id)

    def recent(self, since: float) -> list[RequestView]:
        """Return the requests first decided since then."""
        return [record.request for record in self._records.values() if record.attempts[0].decided_at >= since]

    def waited(self, request: RequestView, seconds: float) -> None:
        """The request was in the queue for so long."""
        record = self._of(request)
        if record is not None:
            record.waited_s = seconds

    def told(self, request: RequestView, leg: Leg, account: msgspec.Raw) -> None:
        """A worker gave an account of itself, as JSON."""
        record = self._of(request)
        if record is not None:
            record.told[leg.value] = account

    # --- Observer

    def dispatched(self, request: RequestView, decision: Decision, now: float) -> None:
        """A decision was made."""
        record = self._of(request)
        if record is None:
            if request.request_id in self._records:
                self._records.move_to_end(request.request_id)
            record = self._records[request.request_id] = Record(request)
            if len(self._records) > self._most:
                self._records.popitem(last=False)
        record.attempts.append(Attempt(decision, self._version_of(request.model), now))

    def prefilled(
        self, request: RequestView, *, prompt_tokens: int | None, cached_tokens: int | None, now: float
    ) -> None:
        """Note it."""
        record = self._of(request)
        if record is not None:
            last = record.attempts[-1]
            last.prefilled_at, last.prompt_tokens, last.cached_tokens = now, prompt_tokens, cached_tokens

    def streaming(self, request: RequestView, *, cached_tokens: int | None, now: float) -> None:
        """Note it."""
        record = self._of(request)
        if record is not None:
            last = record.attempts[-1]
            last.streaming_at = now
            if last.decision.prefill is None:
                last.cached_tokens = cached_tokens

    def ended(self, request: RequestView, *, output_tokens: int | None, now: float) -> None:
        """Note it."""
        record = self._of(request)
        if record is not None:
            record.ended_at, record.output_tokens = now, output_tokens

    def failed(self, request: RequestView, leg: Leg, now: float) -> None:
        """Note it."""
        record = self._of(request)
        if record is not None:
            record.attempts[-1].failed_at, record.attempts[-1].failed_leg = now, leg

    def _of(self, request: RequestView) -> Record | None:
        record = self._records.get(request.request_id)
        return record if record is not None and record.request is request else None


def explain(record: Record) -> dict[str, Any]:
    """Return what is known of a request as JSON-ready fields: estimates beside what it came to."""
    request = record.request
    return {
        "request_id": request.request_id,
        "model": request.model,
        "estimated": {"prompt_tokens": request.prompt_tokens, "output_tokens": request.output_tokens},
        "output_tokens": record.output_tokens,
        "queue_s": record.waited_s,
        "decisions": [_attempt(attempt, record.ended_at) for attempt in record.attempts],
        "told": record.told,
    }


def explain_decision(decision: Decision, version: str) -> dict[str, Any]:
    """Return a decision as JSON-ready fields."""
    why = decision.why
    return {
        "policy_version": version,
        "prefill": decision.prefill.name if decision.prefill is not None else None,
        "decode": decision.decode.name,
        "unit": why.unit if why is not None else None,
        "candidates": [] if why is None else [
            {"prefill": each.prefill, "decode": each.decode, "chosen": each.chosen, "terms": each.terms}
            for each in why.candidates()
        ],
    }  # fmt: skip


def _attempt(attempt: Attempt, ended_at: float | None) -> dict[str, Any]:
    computed_at = attempt.prefilled_at if attempt.decision.prefill is not None else attempt.decided_at
    stopped_at = attempt.failed_at if attempt.failed_at is not None else ended_at
    return explain_decision(attempt.decision, attempt.version) | {
        "actual": {
            "prefill_s": _between(attempt.decided_at, attempt.prefilled_at),
            "decode_first_byte_s": _between(computed_at, attempt.streaming_at),
            "answer_s": _between(attempt.streaming_at, stopped_at),
            "total_s": _between(attempt.decided_at, stopped_at),
            "prompt_tokens": attempt.prompt_tokens,
            "cached_tokens": attempt.cached_tokens,
        },
        "failed_leg": attempt.failed_leg.value if attempt.failed_leg is not None else None,
    }


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 6)

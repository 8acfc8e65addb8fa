"""The interface of a routing policy, and the filter that all policies share.

A policy is a small class with one method. It may keep state of its own (a counter, an index) but does no I/O
and reads no clock. A new policy is one file, one test, and its line in `policy_file.py`.
"""

from collections.abc import Sequence
from typing import Protocol

from .fleet import Fleet, Kind, Worker
from .view import RequestView
from .why import Why


class Decision:
    """Who serves a request. Two are equal when they name the same workers."""

    __slots__ = ("decode", "prefill", "why")

    def __init__(self, decode: Worker, prefill: Worker | None, why: Why | None = None) -> None:
        self.decode = decode
        self.prefill = prefill
        """None: the decode worker computes the prompt itself."""
        self.why = why
        """Every candidate's terms; None from policies that weigh nothing."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decision) and self.decode is other.decode and self.prefill is other.prefill

    def __hash__(self) -> int:
        return hash((self.decode, self.prefill))


class Policy(Protocol):
    """Chooses workers."""

    def decide(self, request: RequestView, fleet: Fleet, now: float) -> Decision | None:
        """Return who serves `request`, or None when no decode worker is left for it.

        Must not choose a worker in `request.tried_*`, a prefill worker that may not pair with the decode
        worker, or any prefill worker for a `request.decode_only`.
        """
        ...


def candidates(workers: Sequence[Worker], tried: set[str], now: float) -> list[Worker]:
    """Return the workers not in `tried`; those that are cooling off only when there are no others."""
    fit = [worker for worker in workers if worker.cooling_until <= now and worker.name not in tried]
    return fit or [worker for worker in workers if worker.name not in tried]


def may_split(request: RequestView, decode: Worker) -> bool:
    """Whether `decode` can take this request's KV from another worker."""
    if decode.kind is Kind.VLLM:
        # It pulls once for each answer, but its peer frees the blocks after the first pull.
        return not request.decode_only and request.answers == 1
    return not request.decode_only or decode.needs_partner


def partners(request: RequestView, fleet: Fleet, decode: Worker, now: float) -> list[Worker]:
    """Return the prefill workers that `decode` may pull this request's KV from."""
    if not may_split(request, decode):
        return []
    pool = fleet.pool(request.model).prefill
    able = [worker for worker in pool if worker is not decode and fleet.may_pair(worker, decode)]
    return candidates(able, request.tried_prefill, now)

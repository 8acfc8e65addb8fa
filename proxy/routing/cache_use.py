"""Connects what workers report of their caches with every memory that believes something of them.

As an `Observer` it notes which prompts workers use, told after the memories; a reader of KV events reports to
it. Costs nothing while no worker's events are read.
"""

from collections.abc import Iterator

from .cache_events import CacheEvents, CacheReport
from .courses import Courses
from .fleet import Worker
from .memory import RoutingMemory
from .observer import Leg, Observer
from .policy import Decision
from .view import RequestView


class CacheUse(Observer):
    """One proxy's."""

    def __init__(self, courses: Courses) -> None:
        self._courses = courses
        self._followed: set[str] = set()
        self._events: dict[int, tuple[RoutingMemory, CacheEvents]] = {}
        self._in_flight: dict[int, Decision] = {}

    # --- told by the reader of events

    def follow(self, worker: str) -> None:
        """Reports of `worker` are being read."""
        self._followed.add(worker)
        for events in self._all():
            events.follow(worker)

    def unfollow(self, worker: str) -> None:
        """They are not any more."""
        self._followed.discard(worker)
        for events in self._all():
            events.unfollow(worker)

    def report(self, worker: str, report: CacheReport, now: float) -> None:
        """Learn from what `worker` reports."""
        for events in self._all():
            events.report(worker, report, now)

    def lost(self, worker: str) -> None:
        """Reports of `worker` are missing."""
        for events in self._all():
            events.lost(worker)

    # --- Observer

    def dispatched(self, request: RequestView, decision: Decision, now: float) -> None:
        """Its workers use the prompt from now on."""
        if self._followed:
            self._in_flight[id(request)] = decision
            self._used(request, decision, now)

    def ended(self, request: RequestView, *, output_tokens: int | None, now: float) -> None:
        """Its workers have used the prompt until now."""
        decision = self._in_flight.pop(id(request), None) if self._in_flight else None
        if decision is not None:
            self._used(request, decision, now)

    def failed(self, request: RequestView, leg: Leg, now: float) -> None:
        """Whether they did is not known."""
        self._in_flight.pop(id(request), None)

    def restarted(self, worker: Worker) -> None:
        """Its cache is empty."""
        if worker.name in self._followed:
            for events in self._all():
                events.forget(worker.name)

    def _used(self, request: RequestView, decision: Decision, now: float) -> None:
        course = self._courses.of(request.model)
        if not course.learns:
            return
        events, keys = self._of(course.memory), course.memory.keys(request)
        for worker in (decision.prefill, decision.decode):
            if worker is not None and worker.name in self._followed:
                events.used(worker.name, keys, now)

    def _all(self) -> Iterator[CacheEvents]:
        memories = self._courses.memories()
        present = {id(memory) for memory in memories}
        self._events = {key: entry for key, entry in self._events.items() if key in present}
        return (self._of(memory) for memory in memories)

    def _of(self, memory: RoutingMemory) -> CacheEvents:
        entry = self._events.get(id(memory))
        if entry is None:
            entry = self._events[id(memory)] = memory, CacheEvents(memory.index)
            for worker in self._followed:
                entry[1].follow(worker)
        return entry[1]

"""The policies in force: one for all models, others for some, and one that may run in the first one's shadow.

A course is a policy with the memory it rests on. A new one takes the place of an old one between two
decisions; it keeps the memory if its settings for that are the same, else it starts to learn anew. Memories
are fed only where a policy reads them. As an `Observer`, this passes on what happens to the request's course;
as a `Policy`, it is what the router asks.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .fleet import Fleet, Worker
from .load import WorkerFacts
from .memory import RoutingMemory
from .observer import Leg, Observer
from .policy import Decision, Policy
from .policy_config import PolicyConfig
from .policy_file import build_policy, dump_policy, learns, may_keep_memory, memory_for
from .view import RequestView


@dataclass(frozen=True, slots=True)
class Place:
    """Which policy is meant."""

    model: str | None = None
    """None: all models that have none of their own."""
    shadow: bool = False
    """The one that is asked beside the policy of all models, and not followed."""


DEFAULT = Place()
SHADOW = Place(shadow=True)


@dataclass
class Course:
    """One policy in force."""

    source: str
    """Its name or its file."""
    config: PolicyConfig
    policy: Policy
    memory: RoutingMemory
    version: str
    """Its name and a digest of all of its settings."""
    learns: bool
    """Whether its memory is fed: it reads it, or its shadow does."""
    decisions: int = 0


@dataclass(slots=True)
class ShadowCounts:
    """How the shadow would have decided."""

    same: int = 0
    other_prefill: int = 0
    """Another prefill worker, or with one where the other went without, or the reverse."""
    other_decode: int = 0
    other_both: int = 0
    problem: str | None = None
    """Why it was switched off."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How a policy decides on requests that were decided before."""

    requests: int
    same: int
    """Requests that it sends to the same workers as the policy in force would, if it began anew."""
    problem: str | None = None
    """Why it must not be used."""


class Courses(Observer):
    """All policies of one proxy."""

    def __init__(self, source: str, config: PolicyConfig, now: float) -> None:
        """Begin with one policy for all models."""
        self._facts: dict[str, WorkerFacts] = {}
        self._by_model: dict[str, Course] = {}
        self.default = self._open(source, config, now, None)
        self.shadow: Course | None = None
        self.shadow_counts = ShadowCounts()

    # --- which are in force

    def prepare(self, place: Place, source: str, config: PolicyConfig, now: float) -> Course:
        """Return a course for `place`, not in force yet."""
        if place.shadow:
            # On the memory of what it shadows, whatever its own settings for one are.
            return self._open(source, config, now, self.default.memory)
        old = self.default if place.model is None else self._by_model.get(place.model)
        keeps = old is not None and old.learns and may_keep_memory(old.config, config)
        return self._open(source, config, now, old.memory if keeps and old is not None else None)

    def put(self, place: Place, course: Course) -> None:
        """Have it in force from now on."""
        if place.shadow:
            self._shadow_with(course)
            self.shadow_counts = ShadowCounts()
        elif place.model is not None:
            self._by_model[place.model] = course
        else:
            self.default = course
            if self.shadow is not None:
                shadow = self.shadow
                self._shadow_with(self._open(shadow.source, shadow.config, 0.0, course.memory))

    def _shadow_with(self, shadow: Course) -> None:
        self.shadow = shadow
        self.default.learns |= shadow.learns  # what they share is fed as what it shadows

    def in_force(self) -> list[tuple[Place, Course]]:
        """Return all of them."""
        found = [(DEFAULT, self.default)]
        found += [(Place(model), course) for model, course in self._by_model.items()]
        return found + ([(SHADOW, self.shadow)] if self.shadow is not None else [])

    def of(self, model: str) -> Course:
        """Return the course of a model."""
        return self._by_model.get(model, self.default) if self._by_model else self.default

    def rehearse(
        self, course: Course, requests: Iterable[RequestView], fleet: Fleet, now: float
    ) -> Rehearsal:
        """Decide again on `requests`. `course` is not to be used after; those in force do not notice."""
        count = same = 0
        # Twins of the policies in force: what these remember of their own, as a turn, must not move.
        twins: dict[str, Policy] = {}
        for request in requests:
            again = request.anew()
            twin = twins.get(request.model)
            if twin is None:
                in_force = self.of(request.model)
                twin = twins[request.model] = build_policy(in_force.config, in_force.memory)
            expected = twin.decide(again, fleet, now)
            try:
                decision = course.policy.decide(again, fleet, now)
            except Exception as error:  # whatever is wrong with it must not get in force
                return Rehearsal(count, same, f"it fails on a request: {error!r}")
            if decision is None and expected is not None:
                return Rehearsal(count, same, "it finds no worker where the policy in force finds one")
            count += 1
            same += decision == expected
        return Rehearsal(count, same)

    # --- Policy

    def decide(self, request: RequestView, fleet: Fleet, now: float) -> Decision | None:
        """Ask the policy of the request's model."""
        course = self._by_model.get(request.model, self.default)
        decision = course.policy.decide(request, fleet, now)
        if decision is not None:
            course.decisions += 1
            if self.shadow is not None and course is self.default:
                self._ask_shadow(self.shadow, request, fleet, now, decision)
        return decision

    def _ask_shadow(
        self, shadow: Course, request: RequestView, fleet: Fleet, now: float, decision: Decision
    ) -> None:
        counts = self.shadow_counts
        try:
            other = shadow.policy.decide(request, fleet, now)
        except Exception as error:  # its faults must not reach requests: it is switched off, and says why
            self.shadow, counts.problem = None, repr(error)
            return
        shadow.decisions += 1
        if other == decision:
            counts.same += 1
        elif other is None or (other.decode is not decision.decode and other.prefill is not decision.prefill):
            counts.other_both += 1
        elif other.decode is not decision.decode:
            counts.other_decode += 1
        else:
            counts.other_prefill += 1

    # --- Observer

    def dispatched(self, request: RequestView, decision: Decision, now: float) -> None:
        """Pass it on."""
        course = self._by_model.get(request.model, self.default)
        if course.learns:
            course.memory.dispatched(request, decision, now)

    def prefilled(
        self, request: RequestView, *, prompt_tokens: int | None, cached_tokens: int | None, now: float
    ) -> None:
        """Pass it on."""
        course = self._by_model.get(request.model, self.default)
        if course.learns:
            course.memory.prefilled(
                request, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, now=now
            )

    def streaming(self, request: RequestView, *, cached_tokens: int | None, now: float) -> None:
        """Pass it on."""
        course = self._by_model.get(request.model, self.default)
        if course.learns:
            course.memory.streaming(request, cached_tokens=cached_tokens, now=now)

    def ended(self, request: RequestView, *, output_tokens: int | None, now: float) -> None:
        """Pass it on."""
        course = self._by_model.get(request.model, self.default)
        if course.learns:
            course.memory.ended(request, output_tokens=output_tokens, now=now)

    def failed(self, request: RequestView, leg: Leg, now: float) -> None:
        """Pass it on."""
        course = self._by_model.get(request.model, self.default)
        if course.learns:
            course.memory.failed(request, leg, now)

    def restarted(self, worker: Worker) -> None:
        """Pass it on to all."""
        for memory in self._all_memories():
            memory.restarted(worker)

    # --- memories

    def removed(self, worker: Worker) -> None:
        """Forget that there was such a worker."""
        self._facts.pop(worker.name, None)
        for memory in self._all_memories():
            memory.removed(worker)

    def describe(self, worker: Worker, facts: WorkerFacts) -> None:
        """Take note of what a worker tells of itself."""
        self._facts[worker.name] = facts
        for memory in self._all_memories():
            memory.describe(worker, facts)

    def memories(self) -> Sequence[RoutingMemory]:
        """Return each memory that is fed."""
        return [course.memory for course in (self.default, *self._by_model.values()) if course.learns]

    def _all_memories(self) -> Sequence[RoutingMemory]:
        """Return them all: one that is not fed yet may be when a shadow comes."""
        return [course.memory for course in (self.default, *self._by_model.values())]

    def _open(self, source: str, config: PolicyConfig, now: float, memory: RoutingMemory | None) -> Course:
        if memory is None:
            memory = memory_for(config, now=now)
            for name, facts in self._facts.items():
                memory.load.describe(name, facts)
        return Course(
            source=source,
            config=config,
            policy=build_policy(config, memory),
            memory=memory,
            version=version_of(config),
            learns=learns(config),
        )


def version_of(config: PolicyConfig) -> str:
    """Return the name of a policy and a digest of its settings."""
    text = dump_policy(config)
    name = text.partition("\n")[0].removeprefix("policy: ")
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

"""Admission: a request starts when a decode worker has room for it, waits in a bounded queue, or is refused.

    submit --room--> Start          its decode slot is granted before its prefill is sent
       '--none--> waits --room--> Start
                    '--too long, pushed out, nobody left to serve it--> Refuse
    replace                         a leg failed: the slot moves to another worker
    release                         nothing is in flight any more: the slot comes free, others start

Requests of one model wait in one `FairQueue`. Every wait has an end: `tick` refuses what is due. A request
that has started is never sent back to wait: if its worker fails while all others are full, its slot is
granted beyond their capacity, and the worker's own queue takes it.

No I/O and no clock. Every call returns verdicts, for this request and for others whose turn has come, to be
carried out in order. The shell calls `tick` at `next_tick`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from .admission_config import AdmissionConfig
from .drain_rate import DrainRate
from .fair_queue import FairQueue
from .policy import Decision
from .slots import DecodeSlots
from .ticket import Standing, Ticket
from .verdict import AdmissionCounts, RefusalReason, Refuse, Start, Verdict
from .view import RequestView

_RECHECK_S = 0.1
"""Until the policy is asked again when it names nobody although there is room."""


Choose = Callable[[RequestView, float], Decision | None]
"""The policy: who serves a request, or None when no decode worker is left for it."""


@dataclass
class _Lane:
    """The requests of one model."""

    queue: FairQueue
    drained: DrainRate
    deserted_until: float | None = None
    """When those who wait are refused, if no worker comes; None while there are workers."""
    recheck_at: float = inf


class Admission:
    """All slots and all queues of one proxy."""

    def __init__(self, config: AdmissionConfig, choose: Choose) -> None:
        self.config = config
        self.slots = DecodeSlots()
        self.counts = AdmissionCounts()
        self._choose = choose
        self._lanes: dict[str, _Lane] = {}
        self._waiting = 0
        self._waiting_bytes = 0
        self._due: list[tuple[float, int, Ticket]] = []
        self._submitted = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    def waiting_by_model(self) -> dict[str, tuple[int, int]]:
        """Return (requests, tokens) that wait for each model."""
        return {model: (len(lane.queue), lane.queue.tokens) for model, lane in self._lanes.items()}

    # --- workers

    def offer(
        self, worker: str, models: Iterable[str], kv_tokens_capacity: int | None, now: float
    ) -> list[Verdict]:
        """A decode worker is ready, or what it tells of itself has changed."""
        known = kv_tokens_capacity or self.config.assumed_kv_tokens
        capacity = None if known is None else known * self.config.overcommit
        before = self.slots.models_of(worker)
        self.slots.offer(worker, models, capacity)
        return self._serve(before | self.slots.models_of(worker), now)

    def withdraw(self, worker: str, now: float) -> list[Verdict]:
        """A decode worker is down, drained or removed: it is granted nothing more."""
        models = self.slots.models_of(worker)
        self.slots.withdraw(worker)
        return self._serve(models, now)

    # --- requests

    def submit(self, ticket: Ticket, now: float) -> list[Verdict]:
        """A new request: start it, have it wait, or refuse it."""
        assert ticket.standing is Standing.NEW, ticket.standing
        ticket.arrived_at = now
        lane = self._lane(ticket.request.model, now)
        if not len(lane.queue) and self._has_room(ticket):
            started = self._start(ticket, now)
            if started is not None:
                return [started]
        self._join_queue(lane, ticket, now)
        verdicts = self._drain(lane, now)
        limit = ticket.terms.tenant_queued_requests
        if limit is not None and _waits(ticket) and lane.queue.waiting_of(ticket.terms.tenant) > limit:
            self._leave_queue(ticket)
            verdicts += [self._refuse(ticket, RefusalReason.TENANT_LIMIT, now), *self._drain(lane, now)]
        return verdicts + self._push_out(now)

    def adopt(self, ticket: Ticket, worker: str) -> None:
        """Another process has started a request: its slot counts here too, until its release."""
        ticket.standing = Standing.STARTED
        self.slots.grant(ticket, worker, ticket.tokens)

    def replace(self, ticket: Ticket, now: float) -> Decision | None:
        """A started request lost its workers (`request.tried_*` say which): choose others and move the slot.

        None when no decode worker is left for it. `tick` is due at once, for the room that this made.
        """
        assert ticket.standing is Standing.STARTED, ticket.standing
        for model in self._give_back(ticket, now):
            if model in self._lanes:
                self._lanes[model].recheck_at = now
        decision = self._place(ticket, now)
        if decision is None:
            decision = self._choose(ticket.request, now)
            if decision is not None:
                self.counts.beyond_capacity += 1
                self.slots.grant(ticket, decision.decode.name, ticket.tokens)
        return decision

    def release(self, ticket: Ticket, now: float) -> list[Verdict]:
        """Nothing of the request is in flight or wanted any more. Idempotent; ends a wait too."""
        before, ticket.standing = ticket.standing, Standing.ENDED
        if before is Standing.WAITING:
            self.counts.cancelled += 1
            return self._drain(self._leave_queue(ticket), now)
        if before is not Standing.STARTED:
            return []
        return self._serve(self._give_back(ticket, now), now)

    # --- time

    def tick(self, now: float) -> list[Verdict]:
        """Refuse whoever has waited long enough, and start whoever can."""
        verdicts: list[Verdict] = []
        while self._due and (self._due[0][0] <= now or self._due[0][2].standing is not Standing.WAITING):
            ticket = heappop(self._due)[2]
            if ticket.standing is Standing.WAITING:
                self._leave_queue(ticket)
                verdicts.append(self._refuse(ticket, RefusalReason.TIMEOUT, now))
        return verdicts + self._serve(list(self._lanes), now)

    def next_tick(self) -> float | None:
        """Return when `tick` is due; None while nothing waits."""
        while self._due and self._due[0][2].standing is not Standing.WAITING:
            heappop(self._due)
        times = [self._due[0][0]] if self._due else []
        lanes = [lane for lane in self._lanes.values() if len(lane.queue)]
        times += [min(lane.recheck_at, lane.deserted_until or inf) for lane in lanes]
        return min(times, default=None)

    def problems(self) -> list[str]:
        """Return every broken invariant; empty is sound."""
        waiting = [ticket for lane in self._lanes.values() for ticket in lane.queue.tickets()]
        found = self.slots.problems()
        if len(waiting) != self._waiting or sum(t.body_bytes for t in waiting) != self._waiting_bytes:
            found.append(f"{len(waiting)} requests wait, {self._waiting} are booked")
        found += [f"{t.request.request_id} waits, but is {t.standing}" for t in waiting if not _waits(t)]
        return found

    # --- starting

    def _serve(self, models: Iterable[str], now: float) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for model in models:
            lane = self._lanes.get(model)
            if lane is not None:
                verdicts += self._drain(lane, now)
        return verdicts

    def _drain(self, lane: _Lane, now: float) -> list[Verdict]:
        """Start as many as there is room for; refuse all when nobody serves them."""
        lane.recheck_at = inf
        verdicts: list[Verdict] = []
        while (ticket := lane.queue.first()) is not None:
            if not self._may_wait(lane, ticket.request.model, now):
                self._leave_queue(ticket)
                verdicts.append(self._refuse(ticket, RefusalReason.NO_WORKERS, now))
                continue
            if not self._has_room(ticket):
                break
            started = self._start(ticket, now)
            if started is None:
                lane.recheck_at = now + _RECHECK_S
                break
            verdicts.append(started)
        return verdicts

    def _start(self, ticket: Ticket, now: float) -> Start | None:
        decision = self._place(ticket, now)
        if decision is None:
            return None
        waited_s = now - ticket.arrived_at
        if ticket.standing is Standing.WAITING:
            first = self._lanes[ticket.request.model].queue.start()
            assert first is ticket, "another request's turn had come"
            self._uncount(ticket)
            self.counts.started_after_wait += 1
            self.counts.waited_s += waited_s
        else:
            self.counts.started_at_once += 1
        ticket.standing = Standing.STARTED
        return Start(ticket, decision, waited_s)

    def _place(self, ticket: Ticket, now: float) -> Decision | None:
        """Have the policy choose among the workers with room, and grant the slot."""
        request = ticket.request
        full = self.slots.full_for(request.model, ticket.tokens)
        tried = request.tried_decode
        if full:
            request.tried_decode = tried | full
        try:
            decision = self._choose(request, now)
        finally:
            request.tried_decode = tried
        if decision is not None:
            self.slots.grant(ticket, decision.decode.name, ticket.tokens)
        return decision

    def _give_back(self, ticket: Ticket, now: float) -> frozenset[str]:
        """Take the slot back; return the models that have more room now."""
        held = self.slots.release(ticket)
        if held is None:
            return frozenset()
        worker, tokens = held
        lane = self._lanes.get(ticket.request.model)
        if lane is not None:
            lane.drained.released(tokens, now)
        return self.slots.models_of(worker)

    def _has_room(self, ticket: Ticket) -> bool:
        return self.slots.has_room(ticket.request.model, ticket.tokens)

    # --- waiting

    def _lane(self, model: str, now: float) -> _Lane:
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = _Lane(FairQueue(self.config.share_every), DrainRate(now))
        return lane

    def _join_queue(self, lane: _Lane, ticket: Ticket, now: float) -> None:
        limits = (self.config.max_wait_s, ticket.terms.max_wait_s)
        ticket.due_at = now + min(limit for limit in limits if limit is not None)
        ticket.standing = Standing.WAITING
        lane.queue.push(ticket)
        self._waiting += 1
        self._waiting_bytes += ticket.body_bytes
        self._submitted += 1
        heappush(self._due, (ticket.due_at, self._submitted, ticket))

    def _leave_queue(self, ticket: Ticket) -> _Lane:
        lane = self._lanes[ticket.request.model]
        lane.queue.remove(ticket)
        self._uncount(ticket)
        return lane

    def _uncount(self, ticket: Ticket) -> None:
        """It waits no more; entries of such are swept out of the deadlines when they are the most."""
        ticket.standing = Standing.ENDED
        self._waiting -= 1
        self._waiting_bytes -= ticket.body_bytes
        if len(self._due) > 2 * self._waiting + 64:
            self._due = [entry for entry in self._due if _waits(entry[2])]
            heapify(self._due)

    def _push_out(self, now: float) -> list[Verdict]:
        """Refuse the least of those who wait until the rest may."""
        verdicts: list[Verdict] = []
        while self._waiting > self.config.queue_requests or self._waiting_bytes > self.config.queue_bytes:
            last = [lane.queue.least() for lane in self._lanes.values() if len(lane.queue)]
            ticket = min(last, key=lambda each: (each.terms.priority, -each.arrived_at))
            lane = self._leave_queue(ticket)
            verdicts.append(self._refuse(ticket, RefusalReason.QUEUE_FULL, now))
            verdicts += self._drain(lane, now)
        return verdicts

    def _may_wait(self, lane: _Lane, model: str, now: float) -> bool:
        """Whether anybody serves the model, or may soon."""
        if self.slots.is_served(model):
            lane.deserted_until = None
            return True
        if lane.deserted_until is None:
            lane.deserted_until = now + self.config.wait_without_workers_s
        return now < lane.deserted_until

    def _refuse(self, ticket: Ticket, reason: RefusalReason, now: float) -> Refuse:
        ticket.standing = Standing.ENDED
        self.counts.refused[reason] += 1
        lane = self._lanes[ticket.request.model]
        ahead = lane.queue.tokens + ticket.tokens
        wait_s = lane.drained.retry_after_s(ahead, now, self.config.longest_retry_after_s)
        return Refuse(ticket, reason, 1 if reason is RefusalReason.NO_WORKERS else wait_s)


def _waits(ticket: Ticket) -> bool:
    return ticket.standing is Standing.WAITING

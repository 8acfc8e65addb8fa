"""The shell around admission: hands requests in, carries its verdicts out, and keeps its one timer.

What a request's own arrival leads to is carried out at once. What an end, a worker or the clock leads to for
others is carried out in the loop's next turn: whoever caused it is done with its own affairs by then.
"""

import asyncio
from collections import deque
from typing import Protocol, assert_never

from .counters import Histogram
from .routing.fleet import Kind, Worker
from .routing.router import Router
from .routing.ticket import Ticket
from .routing.verdict import Refuse, Start, Verdict


class Guest(Protocol):
    """Whoever serves a request that asks to be admitted."""

    def admitted(self, start: Start, now: float) -> None:
        """Its decode slot is granted: begin."""
        ...

    def turned_away(self, verdict: Refuse) -> None:
        """It is not admitted: say so."""
        ...

    def shut_down(self) -> None:
        """The proxy ends: refuse it."""
        ...


class AdmissionDesk:
    """One proxy's."""

    def __init__(self, router: Router, loop: asyncio.AbstractEventLoop) -> None:
        self._router = router
        self._admission = router.admission
        self._loop = loop
        self._guests: dict[Ticket, Guest] = {}
        self._verdicts: deque[Verdict] = deque()
        self._handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.queue_wait_s = Histogram()
        """From arrival to the decode slot."""
        router.fleet.listeners.append(self.worker_changed)

    def submit(self, ticket: Ticket, guest: Guest, now: float) -> None:
        """Admit the request, turn it away, or do either later."""
        verdicts = self._admission.submit(ticket, now)
        if len(verdicts) == 1 and verdicts[0].ticket is ticket:
            self._tell(verdicts[0], guest, now)
            return
        self._guests[ticket] = guest
        self._later(verdicts)

    def release(self, ticket: Ticket, now: float) -> None:
        """The request is over, started or not."""
        self._guests.pop(ticket, None)
        self._later(self._admission.release(ticket, now))

    def rearm(self) -> None:
        """Set the timer to when admission wants it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._admission.waiting and (due := self._admission.next_tick()) is not None:
            self._timer = self._loop.call_at(due, self._tick)

    def worker_changed(self, worker: Worker, now: float) -> None:
        """A worker has entered or left the rotation, or changed in it."""
        others = [each for each in self._router.fleet.workers.values() if each.needs_partner]
        for each in (worker, *others) if worker.kind is Kind.SGLANG else (worker,):
            self._offer(each, now)

    def _offer(self, worker: Worker, now: float) -> None:
        if self._router.fleet.serves(worker):
            seen = worker.sighting
            self._later(self._admission.offer(worker.name, seen.models, seen.kv_tokens_capacity, now))
        else:
            self._later(self._admission.withdraw(worker.name, now))

    def turn_all_away(self) -> None:
        """The proxy ends: nobody waits any longer."""
        while self._guests:
            ticket, guest = self._guests.popitem()
            guest.shut_down()
            assert ticket not in self._guests

    def close(self) -> None:
        """Drop the timer; settle what was decided and not told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._handle is not None:
            self._handle.cancel()
            self._carry_out()

    def _later(self, verdicts: list[Verdict]) -> None:
        if verdicts:
            self._verdicts.extend(verdicts)
            if self._handle is None:
                self._handle = self._loop.call_soon(self._carry_out)
        if self._admission.waiting or self._timer is not None:
            self.rearm()

    def _carry_out(self) -> None:
        self._handle = None
        now = self._loop.time()
        while self._verdicts:
            verdict = self._verdicts.popleft()
            guest = self._guests.pop(verdict.ticket, None)
            if guest is not None:
                self._tell(verdict, guest, now)
            elif isinstance(verdict, Start):  # it left since
                self._router.unbook(verdict.ticket.request, verdict.decision, now)

    def _tell(self, verdict: Verdict, guest: Guest, now: float) -> None:
        match verdict:
            case Start(waited_s=waited_s):
                self.queue_wait_s.observe(waited_s)
                guest.admitted(verdict, now)
            case Refuse():
                guest.turned_away(verdict)
            case _:
                assert_never(verdict)

    def _tick(self) -> None:
        self._timer = None
        self._later(self._admission.tick(self._loop.time()))
        self.rearm()

"""A sibling's requests, booked here as this process's own are: load, slots, prefix index, rates. No I/O.

They are in nobody's ledger here: whose request it is holds the hand-over, and releases it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from ..routing.books import book, decode_done, prefill_done
from ..routing.commands import Abort
from ..routing.observer import Leg, Observer
from ..routing.policy import Decision
from ..routing.router import Router
from ..routing.tenants import Terms
from ..routing.ticket import Ticket
from ..routing.view import RequestView
from .messages import Dispatched, Ended, Event, Failed, Hello, Prefilled, Streaming

_NO_TERMS = Terms(tenant="")


@dataclass(slots=True, eq=False)
class _Shadow:
    """One request of a sibling."""

    ticket: Ticket
    decision: Decision
    wire_id: str
    prefilling: bool
    streaming: bool = False


class Shadows:
    """The requests of one sibling."""

    def __init__(
        self, router: Router, observers: Sequence[Observer], release: Callable[[Ticket, float], None]
    ) -> None:
        """`observers` learn from them; `release` gives a slot back and starts who waited for it."""
        self._router = router
        self._observers = observers
        self._release = release
        self._flights: dict[int, _Shadow] = {}

    def __len__(self) -> int:
        """Requests of the sibling's that are in flight."""
        return len(self._flights)

    def apply(self, event: Event) -> None:
        """Follow what the sibling tells; what is about a worker that is unknown here is left out."""
        if isinstance(event, Hello):
            return
        if isinstance(event, Dispatched):
            self._dispatched(event)
            return
        shadow = self._flights.get(event.flight)
        if shadow is None:
            return
        match event:
            case Prefilled():
                self._prefilled(shadow, event)
            case Streaming():
                shadow.streaming = True
                for observer in self._observers:
                    observer.streaming(shadow.ticket.request, cached_tokens=event.cached_tokens, now=event.at)
            case Ended():
                self._ended(event.flight, event.output_tokens, event.at)
            case Failed():
                leg = Leg.PREFILL if event.by_prefill else Leg.DECODE
                for observer in self._observers:
                    observer.failed(shadow.ticket.request, leg, event.at)
                self._unbook(event.flight, event.at)
            case _:
                assert_never(event)

    def drop(self, now: float) -> list[Abort]:
        """The sibling is gone: take everything back; return what would end its requests on the workers."""
        aborts = []
        for flight, shadow in list(self._flights.items()):
            prefill = shadow.decision.prefill
            if prefill is not None and not shadow.streaming:
                aborts.append(Abort(prefill, shadow.wire_id, releases=False))
            aborts.append(Abort(shadow.decision.decode, shadow.wire_id, releases=False))
            self._ended(flight, None, now)
        return aborts

    def _dispatched(self, event: Dispatched) -> None:
        workers = self._router.fleet.workers
        decode, prefill = workers.get(event.decode), workers.get(event.prefill or "")
        if decode is None or (event.prefill is not None and prefill is None):
            return
        request = RequestView(
            request_id=event.wire_id,
            model=event.model,
            prompt_tokens=event.prompt_tokens,
            output_tokens=event.output_tokens,
            answers=event.answers,
            session=event.session,
            prefix_keys=event.keys,
            key_tokens=event.key_tokens,
        )
        decision, ticket = Decision(decode, prefill), Ticket(request, _NO_TERMS)
        self._flights[event.flight] = _Shadow(ticket, decision, event.wire_id, prefill is not None)
        book(request, decision)
        self._router.admission.adopt(ticket, decode.name)
        for observer in self._observers:
            observer.dispatched(request, decision, event.at)

    def _prefilled(self, shadow: _Shadow, event: Prefilled) -> None:
        request = shadow.ticket.request
        if shadow.prefilling:
            shadow.prefilling = False
            prefill_done(request, shadow.decision)
        for observer in self._observers:
            observer.prefilled(
                request, prompt_tokens=event.prompt_tokens, cached_tokens=event.cached_tokens, now=event.at
            )

    def _ended(self, flight: int, output_tokens: int | None, now: float) -> None:
        for observer in self._observers:
            observer.ended(self._flights[flight].ticket.request, output_tokens=output_tokens, now=now)
        self._unbook(flight, now)

    def _unbook(self, flight: int, now: float) -> None:
        shadow = self._flights.pop(flight)
        request = shadow.ticket.request
        if shadow.prefilling:
            prefill_done(request, shadow.decision)
        decode_done(request, shadow.decision)
        self._release(shadow.ticket, now)

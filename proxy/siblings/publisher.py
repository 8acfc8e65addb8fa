"""Collects what siblings are told: an `Observer` whose events wait until somebody takes them. No I/O."""

from collections.abc import Callable
from dataclasses import dataclass

from ..routing.fleet import Worker
from ..routing.observer import Leg, Observer
from ..routing.policy import Decision
from ..routing.view import RequestView
from .messages import Dispatched, Ended, Event, Failed, Prefilled, Streaming


@dataclass(slots=True, eq=False)
class _Flight:
    """One attempt at one request."""

    number: int
    request: RequestView
    """Held so that no other object takes its identity."""
    decision: Decision
    at: float
    prefilled: Prefilled | None = None
    streaming: Streaming | None = None

    def told(self) -> Dispatched:
        """Return its first event; late, because the id that workers get is claimed after the decision."""
        request, prefill = self.request, self.decision.prefill
        return Dispatched(
            self.number,
            request.model,
            request.prompt_tokens,
            request.output_tokens,
            request.answers,
            request.prefix_keys or [],
            request.key_tokens,
            request.session,
            prefill.name if prefill is not None else None,
            self.decision.decode.name,
            request.wire_id,
            self.at,
        )


class Publisher(Observer):
    """What one process has to tell."""

    def __init__(self) -> None:
        self.wake: Callable[[], None] = _nobody
        """Called when there is something to tell and there was nothing before."""
        self._flights: dict[int, _Flight] = {}
        self._outbox: list[_Flight | Event] = []
        self._count = 0

    def take(self) -> list[Event]:
        """Return what happened since the last call."""
        outbox, self._outbox = self._outbox, []
        return [each.told() if isinstance(each, _Flight) else each for each in outbox]

    def snapshot(self) -> list[Event]:
        """Return what a sibling has to know that has heard nothing so far; call it when nothing waits."""
        found: list[Event] = []
        for flight in self._flights.values():
            found.append(flight.told())
            found += [event for event in (flight.prefilled, flight.streaming) if event is not None]
        return found

    # --- Observer

    def dispatched(self, request: RequestView, decision: Decision, now: float) -> None:
        """Tell."""
        self._count += 1
        flight = self._flights[id(request)] = _Flight(self._count, request, decision, now)
        self._tell(flight)

    def prefilled(
        self, request: RequestView, *, prompt_tokens: int | None, cached_tokens: int | None, now: float
    ) -> None:
        """Tell."""
        flight = self._flights.get(id(request))
        if flight is not None:
            flight.prefilled = Prefilled(flight.number, prompt_tokens, cached_tokens, now)
            self._tell(flight.prefilled)

    def streaming(self, request: RequestView, *, cached_tokens: int | None, now: float) -> None:
        """Tell."""
        flight = self._flights.get(id(request))
        if flight is not None:
            flight.streaming = Streaming(flight.number, cached_tokens, now)
            self._tell(flight.streaming)

    def ended(self, request: RequestView, *, output_tokens: int | None, now: float) -> None:
        """Tell."""
        flight = self._flights.pop(id(request), None)
        if flight is not None:
            self._tell(Ended(flight.number, output_tokens, now))

    def failed(self, request: RequestView, leg: Leg, now: float) -> None:
        """Tell."""
        flight = self._flights.pop(id(request), None)
        if flight is not None:
            self._tell(Failed(flight.number, leg is Leg.PREFILL, now))

    def restarted(self, worker: Worker) -> None:
        """Nothing to tell: siblings look at the workers themselves."""

    def _tell(self, event: _Flight | Event) -> None:
        self._outbox.append(event)
        if len(self._outbox) == 1:
            self.wake()


def _nobody() -> None:
    """Nobody listens yet."""

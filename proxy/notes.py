"""What an exchange tells the routing's observers of an answer: when it came, and what it says of itself."""

from .hub import Hub
from .leg import Leg
from .prefill_answer import PrefillAnswer
from .relay_leg import RelayLeg
from .routing.observer import Leg as Side
from .routing.view import RequestView
from .usage import cached_tokens

FRAMING_EVENTS = 2
"""Events of a chat's stream that carry no token: the first, with the role, and the last, `[DONE]`."""


def note_prefill(hub: Hub, request: RequestView, answer: PrefillAnswer, now: float) -> None:
    """Prefill's answer is here."""
    usage = answer.usage
    tokens, cached = answer.tokens or usage.prompt_tokens, cached_tokens(usage)
    for observer in hub.router.observers:
        observer.prefilled(request, prompt_tokens=tokens, cached_tokens=cached, now=now)
    if answer.account is not None:
        hub.log.told(request, Side.PREFILL, answer.account)


def note_stream(hub: Hub, request: RequestView, leg: Leg | None, now: float) -> None:
    """Decode's first bytes are here; all of them, where the client did not ask for a stream."""
    cached = cached_tokens(leg.usage()[0]) if isinstance(leg, RelayLeg) and leg.whole else None
    for observer in hub.router.observers:
        observer.streaming(request, cached_tokens=cached, now=now)


def note_end(hub: Hub, request: RequestView, leg: Leg | None, now: float) -> None:
    """Nothing of the request is in flight any more."""
    tokens = None
    if isinstance(leg, RelayLeg) and leg.whole:
        usage, account = leg.usage()
        tokens = usage.completion_tokens
        if tokens is None and leg.events and request.answers == 1:
            tokens = max(leg.events - FRAMING_EVENTS, 1)
        if account is not None:
            hub.log.told(request, Side.DECODE, account)
    for observer in hub.router.observers:
        observer.ended(request, output_tokens=tokens, now=now)

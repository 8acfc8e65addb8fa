"""The hand-over ledger: each KV handle on a prefill worker has one entry here until it is freed there.

    CREATED     prefill was asked to compute and hold it
    ADVERTISED  prefill's answer offers it
    GRANTED     a decode worker was told to pull it
    PULLED      that decode worker streams tokens: it has read the KV and acknowledges to prefill itself
    RELEASING   something failed: the prefill worker is being told to free it

An entry that ends is gone, so after a drain the ledger reads zero. No I/O and no clock.
"""

import enum
from collections import Counter
from typing import Final


class HandoverState(enum.Enum):
    """Where a handle stands."""

    __hash__ = object.__hash__  # members are single objects: no need to hash their names anew each time

    CREATED = "created"
    ADVERTISED = "advertised"
    GRANTED = "granted"
    PULLED = "pulled"
    RELEASING = "releasing"
    FREED = "freed"


class HandoverEvent(enum.Enum):
    """What can happen to a handle."""

    __hash__ = object.__hash__

    ADVERTISE = "advertise"
    GRANT = "grant"
    PULL = "pull"
    FREE = "free"
    """The worker holds nothing under it: never created, or acknowledged by decode."""
    RELEASE = "release"
    """An explicit release was asked for."""
    RELEASED = "released"
    """The release was confirmed, or is left to the lease's expiry."""


_S, _E = HandoverState, HandoverEvent
TRANSITIONS: Final[dict[tuple[HandoverState, HandoverEvent], HandoverState]] = {
    (_S.CREATED, _E.ADVERTISE): _S.ADVERTISED,
    (_S.CREATED, _E.FREE): _S.FREED,
    (_S.CREATED, _E.RELEASE): _S.RELEASING,
    (_S.ADVERTISED, _E.GRANT): _S.GRANTED,
    (_S.ADVERTISED, _E.RELEASE): _S.RELEASING,
    (_S.GRANTED, _E.PULL): _S.PULLED,
    (_S.GRANTED, _E.RELEASE): _S.RELEASING,
    (_S.PULLED, _E.FREE): _S.FREED,
    (_S.PULLED, _E.RELEASE): _S.RELEASING,
    (_S.RELEASING, _E.RELEASED): _S.FREED,
}


class LedgerError(Exception):
    """An event that the handle's state does not allow: a fault of the proxy itself."""


class Handover:
    """One entry: the handle's owner and what it weighs."""

    __slots__ = ("prefill", "state", "tokens")

    def __init__(self, prefill: str, tokens: int) -> None:
        self.prefill = prefill
        self.tokens = tokens
        """Prompt tokens: an estimate until prefill answers."""
        self.state = HandoverState.CREATED


class Ledger:
    """All handles that are not freed."""

    def __init__(self) -> None:
        self._entries: dict[str, Handover] = {}
        self.freed = 0
        """Handles that ended since the start."""
        self.released = 0
        """Of these, by explicit release."""

    def __len__(self) -> int:
        return len(self._entries)

    def create(self, handle: str, *, prefill: str, tokens: int) -> None:
        """Prefill is about to be asked for `handle`."""
        if handle in self._entries:
            raise LedgerError(f"hand-over {handle} exists already")
        self._entries[handle] = Handover(prefill, tokens)

    def advertise(self, handle: str, tokens: int | None) -> None:
        """Prefill offers the KV of `tokens` prompt tokens (None: it does not tell)."""
        entry = self.on(handle, HandoverEvent.ADVERTISE)
        if tokens is not None:
            entry.tokens = tokens

    def on(self, handle: str, event: HandoverEvent) -> Handover:
        """Apply any other event; return the entry."""
        entry = self._entries.get(handle)
        if entry is None:
            raise LedgerError(f"hand-over {handle} is unknown: {event.value}")
        state = TRANSITIONS.get((entry.state, event))
        if state is None:
            raise LedgerError(f"hand-over {handle} is {entry.state.value}: {event.value} is impossible")
        entry.state = state
        if state is HandoverState.FREED:
            del self._entries[handle]
            self.freed += 1
            self.released += event is HandoverEvent.RELEASED
        return entry

    def counts(self) -> Counter[HandoverState]:
        """Return how many handles are in each state."""
        return Counter(entry.state for entry in self._entries.values())

    def holds_for(self, prefill: str) -> bool:
        """Whether a prefill worker holds KV that is not pulled or released."""
        return any(
            entry.prefill == prefill and entry.state is not HandoverState.PULLED
            for entry in self._entries.values()
        )

    def outstanding_tokens(self) -> Counter[str]:
        """Return the prompt tokens whose KV each prefill worker holds for somebody."""
        held: Counter[str] = Counter()
        for entry in self._entries.values():
            held[entry.prefill] += entry.tokens
        return held

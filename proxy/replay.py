"""Which streams could be continued if their worker died, and the memory that this may take.

A stream is kept as references to the bytes that were relayed, with its request. A timer looks at how much
that is: where all streams together have more than the budget, the longest are kept no longer, and end by an
error if they break off. One that broke off counts too, and is dropped for no budget.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from .body import RequestBody
from .relay_leg import RelayLeg
from .routing.fleet import Kind
from .told import Told, read_told, unchunked

LOOK_S = 0.5
SEED_BITS = 31


@dataclass(frozen=True, slots=True)
class Broken:
    """A stream that broke off and can be continued."""

    told: Told
    chunked: bool
    """How the answer was begun: else its end is the connection's."""
    stays: bool
    """Whether the client's connection can carry another answer afterwards."""


class Replay:
    """One stream that could be computed again."""

    __slots__ = ("body_bytes", "forget", "leg", "seed", "told")

    def __init__(self, body_bytes: int, seed: int | None = None) -> None:
        self.body_bytes = body_bytes
        self.seed = seed
        """Given to the request by the proxy, so that it can be."""
        self.leg: RelayLeg | None = None
        """The leg under way, while it is kept."""
        self.forget: Callable[[], None] | None = None
        """Lets go of the request."""
        self.told: Told | None = None
        """What takes the place of the leg, once it broke off and was read back."""

    @property
    def kept_bytes(self) -> int:
        """What it takes."""
        if self.told is not None:
            return self.body_bytes + self.told.kept_bytes
        return 0 if self.leg is None else self.body_bytes + self.leg.received


def replay_of(body: RequestBody, decode: Kind) -> Replay | None:
    """Return how a stream can be computed again; None if its worker might give another answer."""
    if decode is Kind.SGLANG or not body.streams_one_text():
        return None
    if body.repeats_itself():
        return Replay(body.length)
    # Our workers draw by (seed, place of the token), with a seed of their own where none is given.
    return Replay(body.length, random.getrandbits(SEED_BITS)) if decode is Kind.BATON else None


def broken_stream(leg: RelayLeg) -> Broken | None:
    """Return a stream as far as it came; None if it was not kept or cannot be continued."""
    head = leg.head
    if not leg.keeps or head is None or not leg.mendable:
        return None
    body = unchunked(leg.relayed()) if head.chunked else leg.relayed()
    told = None if body is None else read_told(body)
    return None if told is None else Broken(told, head.chunked, head.lets_client_stay)


class Replays:
    """The streams that are kept."""

    def __init__(self, most_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self._most_bytes = most_bytes
        self._loop = loop
        self._kept: set[Replay] = set()
        self.resuming: set[Replay] = set()
        """Those that broke off: their requests are needed now, whatever the budget."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def kept_bytes(self) -> int:
        """What all of them take."""
        return sum(each.kept_bytes for each in self._kept | self.resuming)

    def keep(self, replay: Replay, leg: RelayLeg, forget: Callable[[], None]) -> bool:
        """Keep what `leg` relays from now on; return whether that is done."""
        if not self._most_bytes or not leg.head or not leg.head.event_stream or leg.whole:
            return False
        leg.keep()
        replay.leg, replay.forget = leg, forget
        self._kept.add(replay)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self.look)
        return True

    def broke_off(self, replay: Replay) -> None:
        """Keep it, unless it is kept no longer, until it is discarded."""
        if replay in self._kept:
            self._kept.discard(replay)
            self.resuming.add(replay)

    def read_back(self, replay: Replay, told: Told) -> None:
        """Keep what it told in place of its bytes."""
        replay.told = told
        self._let_leg_go(replay)

    def discard(self, replay: Replay) -> None:
        """Keep it no longer."""
        self._kept.discard(replay)
        self.resuming.discard(replay)
        replay.told = None
        self._let_leg_go(replay)

    def _let_leg_go(self, replay: Replay) -> None:
        if replay.leg is not None:
            replay.leg.forget()
        replay.leg = replay.forget = None

    def look(self) -> None:
        """Drop the longest until the rest is within the budget."""
        try:
            self._drop_longest(self.kept_bytes)
        finally:
            self._timer = self._loop.call_later(LOOK_S, self.look) if self._kept else None

    def _drop_longest(self, total: int) -> None:
        for each in sorted(self._kept, key=_size, reverse=True) if total > self._most_bytes else ():
            total -= each.kept_bytes
            forget = each.forget
            self.discard(each)
            if forget is not None:
                forget()
            if total <= self._most_bytes:
                break

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _size(replay: Replay) -> int:
    return replay.kept_bytes

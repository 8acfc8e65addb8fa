"""Puts numbered messages in order and finds out when some were missed.

    in order            -> Apply
    a gap               -> AskReplay, if there is somewhere to ask; what comes meanwhile is held
    the gap is filled   -> Apply, Apply, ...
    it cannot be filled -> Lost, then Apply what there is
    numbers start over  -> Lost: the publisher is another process

The first message that is seen sets the count: what was published before it is not missed. No clock, no I/O;
the shell sends the replay request, feeds what comes back, and calls `replay_ended` at its end or in its place
when it takes too long.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST_HELD = 4096


@dataclass(frozen=True, slots=True)
class Apply(Generic[T]):
    """Take this message, which follows the one before it."""

    message: T


@dataclass(frozen=True, slots=True)
class AskReplay:
    """Ask the publisher for its messages from number `first` on."""

    first: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages are missing for good: forget what follows from earlier ones."""


class EventSequence(Generic[T]):
    """The messages of one publisher."""

    def __init__(self, *, can_replay: bool) -> None:
        self._can_replay = can_replay
        self._next: int | None = None
        self._last_live: int | None = None
        self._held: dict[int, T] | None = None
        """Messages behind the gap that is being replayed; None while there is none."""

    @property
    def replaying(self) -> bool:
        """Whether a replay is awaited."""
        return self._held is not None

    def received(self, number: int, message: T) -> list[Apply[T] | AskReplay | Lost]:
        """A message was published."""
        started_over = self._last_live is not None and number <= self._last_live
        self._last_live = number
        if started_over:
            self._held = None
            return [Lost(), *self._apply(number, message)]
        if self._next is not None and number < self._next:
            return []  # the replay had it already
        if self._held is not None:
            self._held[number] = message
            return self.replay_ended() if len(self._held) > _MOST_HELD else []
        if self._next is None or number == self._next:
            return self._apply(number, message)
        if not self._can_replay:
            return [Lost(), *self._apply(number, message)]
        self._held = {number: message}
        return [AskReplay(self._next)]

    def replayed(self, number: int, message: T) -> list[Apply[T] | AskReplay | Lost]:
        """The publisher sent a message again."""
        if self._held is None or number != self._next:
            return []
        return self._apply(number, message)

    def replay_ended(self) -> list[Apply[T] | AskReplay | Lost]:
        """Nothing more comes of the replay."""
        held, self._held = self._held, None
        found: list[Apply[T] | AskReplay | Lost] = []
        for number in sorted(held or ()):
            if self._next is not None and number < self._next:
                continue
            if number != self._next:
                found.append(Lost())
            found += self._apply(number, (held or {})[number])
        return found

    def _apply(self, number: int, message: T) -> list[Apply[T] | AskReplay | Lost]:
        self._next = number + 1
        return [Apply(message)]

"""Goes on with a stream where another worker's broke off: checks what was told, and tells the rest.

The second worker computes the answer from its beginning, by the same seed. Its pieces of text need not be cut
as the first one's were. If its text differs from what was told, the stream cannot be continued truthfully.
No I/O.
"""

from typing import Any

import msgspec

from .told import (
    DONE,
    EVENT_END,
    PREFIX,
    NotTextError,
    Told,
    finish_of,
    note,
    pieces_of,
    read_event,
    tells_usage,
)

_encode = msgspec.json.Encoder().encode


class DivergedError(ValueError):
    """The second worker's answer is not the one that was begun."""


class Continuation:
    """One stream being continued."""

    def __init__(self, told: Told) -> None:
        self.told = told
        """What the client has seen; grows with what it is told from here on."""
        self.done = False
        """The last event was passed on."""
        self._repeats = told.texts
        """What has to come again."""
        self._heard: dict[str, int] = dict.fromkeys(self._repeats, 0)
        """Characters that were repeated, by key."""
        self._rest = b""

    def feed(self, body: bytes) -> bytes:
        """Return the events to tell now. Raises `DivergedError`."""
        *events, self._rest = (self._rest + body).split(EVENT_END)
        return b"".join(map(self._pass, events))

    def _pass(self, raw: bytes) -> bytes:
        if self.done:
            raise DivergedError("it goes on after its last event")
        try:
            event = read_event(raw)
            pieces = {} if event is None else pieces_of(event)
        except NotTextError as error:
            raise DivergedError(str(error)) from error
        if event is None:
            self._expect_all_heard()
            self.done = True
            return PREFIX + DONE + EVENT_END
        if "error" in event:
            raise DivergedError("the worker that was to go on failed")
        return self._tell(event, pieces)

    def _tell(self, event: dict[str, Any], pieces: dict[str, str]) -> bytes:
        """Return the event without what was told already; nothing if all of it was."""
        new = {key: rest for key, piece in pieces.items() if (rest := self._unheard(key, piece))}
        ends = finish_of(event) is not None
        if ends:
            self._expect_all_heard()
        says_end, says_usage = ends and not self.told.finished, tells_usage(event) and not self.told.usage
        if not (new or says_end or says_usage or not self.told.opened):
            return b""
        for key in pieces.keys() - new.keys():
            _set(event, key, "")
        for key, piece in new.items():
            _set(event, key, piece)
        note(self.told, event, new)
        return PREFIX + _encode(self._as_begun(event)) + EVENT_END

    def _unheard(self, key: str, piece: str) -> str:
        """Return what of `piece` goes beyond what was told; check the rest."""
        heard, told = self._heard.get(key), self._repeats.get(key, "")
        if heard is None or heard >= len(told):
            if self._waits_for_others(key):
                raise DivergedError("its text comes in another order")
            return piece
        again = told[heard : heard + len(piece)]
        if not piece.startswith(again):
            raise DivergedError("its text is another one")
        self._heard[key] = heard + len(again)
        return piece[len(again) :]

    def _waits_for_others(self, key: str) -> bool:
        return any(heard < len(self._repeats[k]) for k, heard in self._heard.items() if k != key)

    def _expect_all_heard(self) -> None:
        if any(heard < len(self._repeats[key]) for key, heard in self._heard.items()):
            raise DivergedError("its text is shorter")

    def _as_begun(self, event: dict[str, Any]) -> dict[str, Any]:
        """Give the event the name and the time that the answer began under."""
        if self.told.id is not None and "id" in event:
            event["id"] = self.told.id
        if self.told.created is not None and "created" in event:
            event["created"] = self.told.created
        return event


def _set(event: dict[str, Any], key: str, piece: str) -> None:
    choice = event["choices"][0]
    (choice if key == "text" else choice["delta"])[key] = piece

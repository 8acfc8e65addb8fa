"""What a client has seen of an event stream, read back from the bytes that were relayed to it. No I/O.

Read only when the stream has broken off. It can be continued by another worker only if all that was told is
text of one answer; anything else in it (tool calls, token ids) cannot be cut at a character.
"""

import sys
from typing import Any

import msgspec

DONE = b"[DONE]"
EVENT_END = b"\n\n"
PREFIX = b"data: "
TEXT_KEYS = ("content", "reasoning_content", "refusal")
"""Of a chat's delta: what arrives piece by piece."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class NotTextError(ValueError):
    """An event that is more than a piece of text."""


class Told:
    """Everything that was told so far."""

    __slots__ = ("created", "done", "events", "finished", "id", "kept_bytes", "opened", "pieces", "usage")

    def __init__(self) -> None:
        self.id: str | None = None
        self.created: int | None = None
        self.events = 0
        """How many, but for `[DONE]`."""
        self.opened = False
        """The first event of a chat, with the role, was sent."""
        self.pieces: dict[str, list[str]] = {}
        """By key of the delta, or `text` of a completion: all of it, as it came."""
        self.kept_bytes = 0
        """What the pieces take in memory."""
        self.finished = False
        """A reason for the end was told."""
        self.usage = False
        self.done = False
        """Nothing is missing but the end of the framing."""

    @property
    def texts(self) -> dict[str, str]:
        """The pieces put together."""
        return {key: "".join(pieces) for key, pieces in self.pieces.items()}


def pieces_of(event: dict[str, Any]) -> dict[str, str]:
    """Return the text that an event adds, by key. Raises `NotTextError`."""
    choices = event.get("choices")
    if not choices:
        return {}
    if "error" in event or len(choices) != 1 or choices[0].get("index", 0) != 0:
        raise NotTextError("more than one answer")
    [choice] = choices
    if choice.get("logprobs") or choice.get("token_ids"):
        raise NotTextError("tokens beside the text")
    pieces = {"text": choice["text"]} if choice.get("text") else {}
    for key, value in (choice.get("delta") or {}).items():
        if key in TEXT_KEYS and isinstance(value, str):
            pieces |= {key: value} if value else {}
        elif key != "role" and value:
            raise NotTextError(f"{key} in a delta")
    return pieces


def finish_of(event: dict[str, Any]) -> str | None:
    """Return the reason for the end, if an event tells one."""
    choices = event.get("choices")
    return choices[0].get("finish_reason") if choices else None


def tells_usage(event: dict[str, Any]) -> bool:
    """Whether an event is the one that tells the usage of the whole answer."""
    return not event.get("choices") and event.get("usage") is not None


def read_event(event: bytes) -> dict[str, Any] | None:
    """Return the data of one event, None for `[DONE]`. Raises `NotTextError`."""
    if not event.startswith(PREFIX) or b"\n" in event:
        raise NotTextError("an event of another form")
    data = event[len(PREFIX) :]
    if data == DONE:
        return None
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotTextError(f"an event that is no JSON object: {error}") from error


def read_told(body: bytes) -> Told | None:
    """Return what `body`, the events that a client has got, told it; None if that cannot be continued."""
    if not body.endswith(EVENT_END):
        return None
    told = Told()
    try:
        for each in body[: -len(EVENT_END)].split(EVENT_END):
            event = read_event(each)
            if event is None:
                told.done = True
            else:
                note(told, event, pieces_of(event))
    except NotTextError:
        return None
    return told


def note(told: Told, event: dict[str, Any], pieces: dict[str, str]) -> None:
    """Add an event that was told."""
    if told.id is None:
        told.id, told.created = event.get("id"), event.get("created")
    told.opened = True
    told.events += 1
    for key, piece in pieces.items():
        told.pieces.setdefault(key, []).append(piece)
        told.kept_bytes += sys.getsizeof(piece)
    told.finished = told.finished or finish_of(event) is not None
    told.usage = told.usage or tells_usage(event)


def unchunked(data: bytes) -> bytes | None:
    """Return the body of whole chunks, None if they are not whole."""
    body, position = [], 0
    while position < len(data):
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            return None
        size = int(data[position:line_end].partition(b";")[0], 16)
        start = line_end + 2
        if start + size + 2 > len(data):
            return None
        body.append(data[start : start + size])
        position = start + size + 2
    return b"".join(body)

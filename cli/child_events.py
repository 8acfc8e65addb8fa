"""What a Baton process says on its standard output: one JSON object a line, for whoever started it."""

import contextlib

import msgspec


class Loading(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="loading"):
    """Progress: `done` of `total` bytes (or steps) of `stage`."""

    stage: str
    done: int
    total: int


class Listening(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="listening"):
    """The HTTP port is open; requests may still be refused until `Ready`."""

    host: str
    port: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="ready"):
    """The process does its work from now on."""


class Left(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="left"):
    """A rank has left its group, which goes on without it, and ends."""


class Stays(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="stays"):
    """A rank that was to leave its group serves on."""

    message: str


class Fatal(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="fatal"):
    """The process cannot start or go on, and ends."""

    message: str


class Other(msgspec.Struct, frozen=True, kw_only=True):
    """An event that whoever starts processes has no use for."""

    event: str


ChildEvent = Loading | Listening | Ready | Left | Stays | Fatal | Other

_decoder: msgspec.json.Decoder[ChildEvent] = msgspec.json.Decoder(
    Loading | Listening | Ready | Left | Stays | Fatal
)
_other_decoder = msgspec.json.Decoder(Other)


def parse_line(line: bytes) -> ChildEvent | None:
    """Return the event in a line of standard output, or None when it is ordinary text."""
    if not line.startswith(b"{"):
        return None
    with contextlib.suppress(msgspec.DecodeError):
        return _decoder.decode(line)
    with contextlib.suppress(msgspec.DecodeError):
        return _other_decoder.decode(line)
    return None

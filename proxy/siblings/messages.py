"""What a proxy process tells its siblings: the routing's events, with a number for each request.

Times are the sender's: all processes of one machine read the same monotonic clock.
"""

import msgspec


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello", gc=False):
    """First on every connection; what follows at once is everything in flight."""

    index: int
    run: str
    """Of the process: its successor at the same place has another."""


class Dispatched(msgspec.Struct, frozen=True, array_like=True, tag="dispatched", gc=False):
    """A request is on its way to workers."""

    flight: int
    """Its number in the sending process, a new one for every attempt."""
    model: str
    prompt_tokens: int
    output_tokens: int
    answers: int
    keys: list[int]
    key_tokens: float
    session: bytes
    prefill: str | None
    decode: str
    wire_id: str
    """What its workers know it by."""
    at: float


class Prefilled(msgspec.Struct, frozen=True, array_like=True, tag="prefilled", gc=False):
    """The prefill worker answered."""

    flight: int
    prompt_tokens: int | None
    cached_tokens: int | None
    at: float


class Streaming(msgspec.Struct, frozen=True, array_like=True, tag="streaming", gc=False):
    """The decode worker's first bytes are here."""

    flight: int
    cached_tokens: int | None
    at: float


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="ended", gc=False):
    """Nothing of it is in flight any more."""

    flight: int
    output_tokens: int | None
    at: float


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed", gc=False):
    """A leg failed before the first byte; another attempt is another flight."""

    flight: int
    by_prefill: bool
    at: float


Event = Hello | Dispatched | Prefilled | Streaming | Ended | Failed

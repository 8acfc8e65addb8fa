"""What two workers say to each other on the KV control channel, and how it is framed. No I/O.

The worker that pulls opens the connection and speaks first:

    Hello            ->  Hello, or Refused with every difference
    Describe         ->  PeerDescription          only now is transport metadata sent and decoded
    GrantRequest     ->  Granted | Denied
    RenewRequest     ->  Granted | Denied
    Settle           ->  SettleReply              acknowledge or cancel; may be repeated
    Heartbeat        ->  HeartbeatReply

A frame is a 4-byte big-endian length and that many bytes of msgpack, a map tagged `type`. Unknown fields are
ignored, so that workers of different versions understand each other; an unknown tag or a bad frame ends the
connection with an error that says what was wrong.
"""

from collections.abc import Iterator

import msgspec

from .layout import KvLayout, layout_differences
from .lease import Settlement
from .service import PoolRegion

PROTOCOL_VERSION = 1
"""Raised when a message changes its meaning; a peer that speaks another is refused."""

MAX_FRAME_BYTES = 16 * 1024 * 1024
_LENGTH_BYTES = 4


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """Who speaks, and what must agree before anything else is said."""

    protocol: int
    incarnation: str
    transport: str
    layout: KvLayout


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The peers may not exchange blocks; one line for each difference. The connection closes."""

    differences: list[str]


class Describe(msgspec.Struct, frozen=True, kw_only=True, tag="describe"):
    """Ask for what is needed to read the peer's memory."""

    incarnation: str


class PeerDescription(msgspec.Struct, frozen=True, kw_only=True, tag="peer_description"):
    """How the sender's pool is reached."""

    incarnation: str
    metadata: bytes
    """The transport's own, opaque here."""
    region: PoolRegion


class GrantRequest(msgspec.Struct, frozen=True, kw_only=True, tag="grant_request"):
    """May `consumer` read these blocks under this lease?"""

    call_id: int
    incarnation: str
    """Of the worker that is asked; a later one refuses."""
    lease_id: str
    consumer: str
    block_ids: tuple[int, ...]
    checksums: bool = False
    """Send each block's CRC-32 along."""
    progress_s: float = 0.0
    """Keep the passive side of the transport moving for this long: it will be read."""


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True, tag="renew_request"):
    """Hold a granted lease for its full time again."""

    call_id: int
    incarnation: str
    lease_id: str
    consumer: str


class Granted(msgspec.Struct, frozen=True, kw_only=True, tag="granted"):
    """The blocks stay as they are for `ttl_s` from when this was sent."""

    call_id: int
    ttl_s: float
    block_crcs: tuple[int, ...] | None = None
    """CRC-32 of each requested block, in the request's order."""


class Denied(msgspec.Struct, frozen=True, kw_only=True, tag="denied"):
    """No grant."""

    call_id: int
    reason: str
    """`stale_incarnation`, `no_checksums`, or a value of `lease.LeaseRefusal`."""
    message: str


class Settle(msgspec.Struct, frozen=True, kw_only=True, tag="settle"):
    """`consumer` is done with the lease: it has the bytes, or wants none."""

    call_id: int
    incarnation: str
    lease_id: str
    consumer: str
    settlement: Settlement


class SettleReply(msgspec.Struct, frozen=True, kw_only=True, tag="settle_reply"):
    """The settlement was received; it need not be repeated."""

    call_id: int


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """Are you there? Also asks the passive side of the transport to keep moving for `progress_s`."""

    call_id: int
    progress_s: float = 0.0


class HeartbeatReply(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat_reply"):
    """Yes."""

    call_id: int


Request = GrantRequest | RenewRequest | Settle | Heartbeat
Reply = Granted | Denied | SettleReply | HeartbeatReply
Message = Hello | Refused | Describe | PeerDescription | Request | Reply

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class FrameError(Exception):
    """The peer sent something that is no message; the connection cannot go on."""


def encode_frame(message: Message) -> bytes:
    """Return one message as a frame. Raises `ValueError` if it is over `MAX_FRAME_BYTES`."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"{type(message).__name__}: {len(body)} bytes are over {MAX_FRAME_BYTES}")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameDecoder:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of a message whose rest has not arrived."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield every complete message. Raises `FrameError` at the first bad one, after those before it."""
        self._buffer += data
        while (body := self._next_body()) is not None:
            try:
                yield _decoder.decode(body)
            except msgspec.MsgspecError as error:
                raise FrameError(f"bad message of {len(body)} bytes: {error}") from error

    def _next_body(self) -> bytes | None:
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if length > MAX_FRAME_BYTES:
            raise FrameError(f"frame of {length} bytes; at most {MAX_FRAME_BYTES} are allowed")
        end = _LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH_BYTES:end])
        del self._buffer[:end]
        return body


def hello_differences(ours: Hello, theirs: Hello) -> list[str]:
    """Return one line for each thing that keeps two workers from exchanging blocks; empty when compatible."""
    differences = []
    if ours.protocol != theirs.protocol:
        differences.append(f"protocol: {ours.protocol} here, {theirs.protocol} there")
    if ours.transport != theirs.transport:
        differences.append(f"transport: {ours.transport!r} here, {theirs.transport!r} there")
    return differences + [f"layout.{line}" for line in layout_differences(ours.layout, theirs.layout)]

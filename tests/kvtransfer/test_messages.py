"""Messages survive any cut of the byte stream, and what is no message is refused by name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.kvtransfer.lease import Settlement
from baton.kvtransfer.messages import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    Denied,
    Describe,
    FrameDecoder,
    FrameError,
    Granted,
    GrantRequest,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Message,
    PeerDescription,
    Refused,
    RenewRequest,
    Settle,
    SettleReply,
    encode_frame,
    hello_differences,
)
from baton.kvtransfer.service import PoolRegion

from .builders import LAYOUT

HELLO = Hello(protocol=PROTOCOL_VERSION, incarnation="a", transport="nixl", layout=LAYOUT)
REGION = PoolRegion(address=2**63 + 1, block_bytes=768, num_blocks=4)
MESSAGES: list[Message] = [
    HELLO,
    Refused(differences=["layout.dtype: 'float32' here, 'bfloat16' there"]),
    Describe(incarnation="a"),
    PeerDescription(incarnation="a", metadata=b"\x00\xff", region=REGION),
    GrantRequest(call_id=1, incarnation="a", lease_id="r", consumer="b/p", block_ids=(1, 2), checksums=True),
    RenewRequest(call_id=2, incarnation="a", lease_id="r", consumer="b/p"),
    Granted(call_id=1, ttl_s=30.0, block_crcs=(0, 2**32 - 1)),
    Denied(call_id=1, reason="unknown", message="lease r: unknown"),
    Settle(call_id=3, incarnation="a", lease_id="r", consumer="b/p", settlement=Settlement.CANCELLED),
    SettleReply(call_id=3),
    Heartbeat(call_id=4, progress_s=1.0),
    HeartbeatReply(call_id=4),
]


@given(cuts=st.lists(st.integers(1, 400)))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(encode_frame(message) for message in MESSAGES)
    decoder, received = FrameDecoder(), []
    for size in [*cuts, len(stream)]:
        received += list(decoder.feed(stream[:size]))
        stream = stream[size:]

    assert received == MESSAGES
    assert decoder.pending_bytes == 0


def test_fields_of_a_later_version_are_ignored() -> None:
    body = msgspec.msgpack.encode({"type": "settle_reply", "call_id": 3, "mood": "good"})

    assert list(FrameDecoder().feed(framed(body))) == [SettleReply(call_id=3)]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (framed(b"\xc1"), "bad message of 1 bytes: MessagePack data is malformed"),
        (framed(b""), "bad message of 0 bytes"),
        (framed(msgspec.msgpack.encode({"type": "gossip"})), "Invalid value 'gossip'"),
        (framed(msgspec.msgpack.encode({"type": "settle_reply"})), "missing required field `call_id`"),
        (
            framed(msgspec.msgpack.encode({"type": "settle_reply", "call_id": "x"})),
            r"Expected `int`, got `str` - at `\$.call_id`",
        ),
        ((MAX_FRAME_BYTES + 1).to_bytes(4, "big"), f"frame of {MAX_FRAME_BYTES + 1} bytes"),
        (b"GET / HTTP/1.1\r\n", "frame of 1195725856 bytes"),
    ],
)
def test_what_is_no_message_is_refused_by_name(stream: bytes, complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint):
        list(FrameDecoder().feed(stream))


def test_messages_before_a_bad_one_are_not_lost() -> None:
    messages = FrameDecoder().feed(encode_frame(HELLO) + framed(b"\xc1"))

    assert next(messages) == HELLO
    with pytest.raises(FrameError):
        next(messages)


def test_a_message_over_the_limit_is_not_sent() -> None:
    huge = PeerDescription(incarnation="a", metadata=bytes(MAX_FRAME_BYTES), region=REGION)

    with pytest.raises(ValueError, match=r"PeerDescription: 1677\d+ bytes are over"):
        encode_frame(huge)


def test_equal_hellos_are_compatible_whoever_says_them() -> None:
    assert hello_differences(HELLO, msgspec.structs.replace(HELLO, incarnation="b")) == []


def test_every_difference_is_reported_with_both_values() -> None:
    theirs = msgspec.structs.replace(
        HELLO,
        protocol=2,
        transport="socket",
        layout=msgspec.structs.replace(LAYOUT, dtype="bfloat16", block_tokens=64),
    )

    assert hello_differences(HELLO, theirs) == [
        "protocol: 1 here, 2 there",
        "transport: 'nixl' here, 'socket' there",
        "layout.dtype: 'float32' here, 'bfloat16' there",
        "layout.block_tokens: 4 here, 64 there",
    ]

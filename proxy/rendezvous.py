"""Where an SGLang pair meets for one request: the fields that both legs' bodies carry. No I/O.

The prefill worker's bootstrap server introduces the two by the number of a room. A room is used once: a
second request for it can end both workers' schedulers. So a retry gets a new one, and no client chooses it.
"""

import secrets

import msgspec

from .body import RequestBody
from .request import LegHead
from .routing.commands import SendBoth
from .routing.fleet import KvAddress
from .upstream import Pieces, Pool

ROOM_BITS = 63
_encode = msgspec.json.Encoder().encode


def new_room() -> int:
    """Return a number that no other request has."""
    return secrets.randbits(ROOM_BITS)


def meeting_fields(
    address: KvAddress, room: int, request_id: str, prompts: int | None
) -> dict[str, msgspec.Raw]:
    """Return the fields of a meeting at `address`; lists, with a room each, for a list of `prompts`.

    `request_id` is what `/abort_request` ends both legs by.
    """
    if prompts is None:
        meeting: dict[str, object] = {
            "bootstrap_host": address.host,
            "bootstrap_port": address.port,
            "bootstrap_room": room,
        }
    else:
        meeting = {
            "bootstrap_host": [address.host] * prompts,
            "bootstrap_port": [address.port] * prompts,
            "bootstrap_room": [room, *(new_room() for _ in range(prompts - 1))],
        }
    named = prompts is None or prompts == 1
    # A list of prompts would need a list of ids, and their streams would come apart.
    fields = meeting | ({"rid": request_id} if named else {})
    return {name: msgspec.Raw(_encode(value)) for name, value in fields.items()}


def meeting(
    command: SendBoth, body: RequestBody, head: LegHead, pools: tuple[Pool, Pool], http_1_0: bool
) -> tuple[Pieces, Pieces]:
    """Return the whole requests of prefill's and of decode's leg, to meet in a new room."""
    address = command.prefill.bootstrap
    assert address is not None, f"{command.prefill.name} has no bootstrap address"
    fields = meeting_fields(address, new_room(), command.wire_id, body.prompt_count())
    asked, pieces = body.unstreamed_with_fields(fields), body.with_fields(fields)
    prefill = head.build(pools[0].host_header, command.wire_id, len(asked))
    length = sum(map(len, pieces))
    decode = head.build(pools[1].host_header, command.wire_id, length, http_1_0=http_1_0)
    return (prefill, asked), (decode, *pieces)

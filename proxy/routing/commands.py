"""What a request's life asks of its shell, and what the shell tells of a leg that failed."""

import enum

import msgspec

from .fleet import Worker
from .router import Outcome


class Fault(enum.Enum):
    """How a leg failed."""

    UNREACHABLE = "unreachable"
    """No connection: the worker never saw the request."""
    LOST = "lost"
    """The connection ended before the answer did."""
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    """What it sent is not an answer."""
    BUSY = "busy"
    """429 or 503: it declines for now."""
    ERROR = "error"
    """Another answer that says the worker failed (5xx)."""


ANSWERED = {Fault.BUSY, Fault.ERROR}
"""Faults for which the worker sent an answer that a client can be shown."""
DEADLY = {Fault.LOST, Fault.TIMEOUT, Fault.MALFORMED}
"""Faults that the request itself may have caused, and that leave the worker's work undefined."""


class Failure(msgspec.Struct, frozen=True):
    """One failed leg."""

    fault: Fault
    detail: str
    after_loss: bool = False
    """A connection ended under the request before this one could not be made."""


class SendPrefill(msgspec.Struct, frozen=True):
    """Send the prefill form of the body to `worker` under `wire_id`."""

    worker: Worker
    wire_id: str


class SendDecode(msgspec.Struct, frozen=True):
    """Send the client's body to `worker`, with prefill's `kv_transfer_params` if `with_kv`."""

    worker: Worker
    wire_id: str
    with_kv: bool


class SendBoth(msgspec.Struct, frozen=True):
    """Send the client's body to both at once, to meet in a new room; show nothing before prefill is done."""

    prefill: Worker
    decode: Worker
    wire_id: str


class Relay(msgspec.Struct, frozen=True):
    """Give the client the answer of the leg that just answered, as it comes."""


class RelayLastAnswer(msgspec.Struct, frozen=True):
    """Give the client the last failed worker's own answer."""


class Refuse(msgspec.Struct, frozen=True):
    """Give the client an error of the proxy's own."""

    outcome: Outcome
    failure: Failure
    """The last leg's."""


class TellBroken(msgspec.Struct, frozen=True):
    """Tell the client within its answer that the rest will not come."""

    failure: Failure


class Abort(msgspec.Struct, frozen=True):
    """Tell `worker` to drop all work and KV that it holds under `wire_id`."""

    worker: Worker
    wire_id: str
    """Held in the ids until the abort is done."""
    releases: bool
    """Whether the ledger waits for it."""


class Probe(msgspec.Struct, frozen=True):
    """Look at `worker` now: it just failed."""

    worker: Worker


Command = SendPrefill | SendDecode | SendBoth | Relay | RelayLastAnswer | Refuse | TellBroken | Abort | Probe
NOTHING: list[Command] = []
RELAY: list[Command] = [Relay()]

"""What goes into the supervisor of a fleet (events) and what comes out of it (commands)."""

import enum
import signal

import msgspec

from .child_events import ChildEvent, Loading
from .rank_groups import RankPlace


class ChildKind(enum.Enum):
    """What a child process is."""

    PROXY = "proxy"
    PREFILL = "prefill"
    DECODE = "decode"


class Address(msgspec.Struct, frozen=True):
    """Where a child listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Base URL without a slash at the end."""
        return f"http://{self.host}:{self.port}"


# Events ------------------------------------------------------------------------------------------


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A child reported an event."""

    name: str
    event: ChildEvent


class Printed(msgspec.Struct, frozen=True, kw_only=True):
    """A child wrote a line of log."""

    name: str
    line: str


class Exited(msgspec.Struct, frozen=True, kw_only=True):
    """A child ended; a negative `status` is the signal that killed it."""

    name: str
    status: int


class ReadinessSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The proxy answered `GET /ready`; `reason` says what it waits for."""

    ready: bool
    reason: str = ""


class Interrupted(msgspec.Struct, frozen=True, kw_only=True):
    """Someone asked the fleet to stop."""


class Ticked(msgspec.Struct, frozen=True, kw_only=True):
    """Time has passed."""


class AddRank(msgspec.Struct, frozen=True, kw_only=True):
    """Someone wants one more rank in the group of worker `beside`."""

    call: int
    beside: str


class RemoveRank(msgspec.Struct, frozen=True, kw_only=True):
    """Someone wants worker `name` to leave its group."""

    call: int
    name: str


class Unlisted(msgspec.Struct, frozen=True, kw_only=True):
    """The proxy has forgotten a worker, or `problem` says why it has not."""

    name: str
    problem: str | None = None


Event = Said | Printed | Exited | ReadinessSeen | Interrupted | Ticked | AddRank | RemoveRank | Unlisted


# Commands ----------------------------------------------------------------------------------------


class Spawn(msgspec.Struct, frozen=True, kw_only=True):
    """Start a child: on `address` when it had one before. `workers` is filled for the proxy."""

    name: str
    address: Address | None = None
    workers: dict[str, Address] = {}
    place: RankPlace | None = None
    """Of a worker that is a rank."""
    join: Address | None = None
    """A worker whose ranks it joins."""


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """Send a signal to a child; `signal.SIGKILL` goes to its whole process group."""

    name: str
    signal: signal.Signals


class List(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the proxy of a worker."""

    name: str
    address: Address


class Unlist(msgspec.Struct, frozen=True, kw_only=True):
    """Have the proxy drain and forget a worker, reporting `Unlisted`."""

    name: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Tell whoever wanted a change of ranks what has become of it."""

    call: int
    text: str
    is_done: bool


class WatchReadiness(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the proxy at `address` until it is ready, reporting `ReadinessSeen`."""

    address: Address


class ShowLoading(msgspec.Struct, frozen=True, kw_only=True):
    """Show how far a child has loaded."""

    name: str
    progress: Loading


class ShowListening(msgspec.Struct, frozen=True, kw_only=True):
    """A child's address is known."""

    name: str
    address: Address


class ShowReady(msgspec.Struct, frozen=True, kw_only=True):
    """A child does its work."""

    name: str


class ShowLine(msgspec.Struct, frozen=True, kw_only=True):
    """Show a line of a child's log."""

    name: str
    line: str


class ShowNote(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the operator something about the fleet."""

    text: str


class ShowServing(msgspec.Struct, frozen=True, kw_only=True):
    """Every pair has shaken hands: requests are welcome at `address`."""

    address: Address


class ShowFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A child ended before the fleet served: who, why, and its last lines."""

    name: str
    reason: str
    last_lines: tuple[str, ...]


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """No child is left; end with this exit status."""

    status: int


Command = (
    Spawn
    | Send
    | List
    | Unlist
    | Answer
    | WatchReadiness
    | ShowLoading
    | ShowListening
    | ShowReady
    | ShowLine
    | ShowNote
    | ShowServing
    | ShowFailure
    | Finish
)

"""The peers whose memory this process may read, by incarnation: with no I/O.

An incarnation is one life of a worker process; it names the process's transfer agent. `PeerTable` decides
when the agent of an incarnation is added and removed; `peer_links.py` carries the commands out. A restarted
worker is a new incarnation: the old one is drained (its reads run to their end) and then removed, never
reused.

    GREETED     layouts are compatible; nothing of the peer's metadata has been decoded yet
    WARMING     its agent is added; one block is being read to open the data path
    CONNECTED   it may be read
    DRAINING    its control channel is lost, and reads of its memory are still in flight
    REMOVED     its agent is removed
"""

import enum
from collections import OrderedDict
from dataclasses import dataclass, field

REMEMBERED = 4096
"""Addresses, and replaced incarnations, that are remembered so that these can be refused by name."""

Address = tuple[str, int]


class PeerState(enum.Enum):
    """Where a peer is in its life."""

    GREETED = "greeted"
    WARMING = "warming"
    CONNECTED = "connected"
    DRAINING = "draining"
    REMOVED = "removed"


class PeerEvent(enum.Enum):
    """What can happen to a peer."""

    DESCRIBED = "described"
    WARMED = "warmed"
    LOST = "lost, nothing in flight"
    LOST_WHILE_READING = "lost while reading"
    LAST_READ_ENDED = "last read ended"
    RETURNED = "the same incarnation shook hands again"


TRANSITIONS: dict[PeerState, dict[PeerEvent, PeerState]] = {
    PeerState.GREETED: {
        PeerEvent.DESCRIBED: PeerState.WARMING,
        PeerEvent.LOST: PeerState.REMOVED,
    },
    PeerState.WARMING: {
        PeerEvent.WARMED: PeerState.CONNECTED,
        PeerEvent.LOST: PeerState.REMOVED,
        PeerEvent.LOST_WHILE_READING: PeerState.DRAINING,
    },
    PeerState.CONNECTED: {
        PeerEvent.LOST: PeerState.REMOVED,
        PeerEvent.LOST_WHILE_READING: PeerState.DRAINING,
    },
    PeerState.DRAINING: {
        PeerEvent.LAST_READ_ENDED: PeerState.REMOVED,
        PeerEvent.RETURNED: PeerState.WARMING,
    },
    PeerState.REMOVED: {},
}


class StalePeerError(Exception):
    """An incarnation that was replaced by a later one, or that is already greeted elsewhere."""


@dataclass(frozen=True, slots=True)
class AddAgent:
    """Decode the peer's metadata and add its agent."""

    incarnation: str


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Read one block of the peer."""

    incarnation: str


@dataclass(frozen=True, slots=True)
class RemoveAgent:
    """Remove the peer's agent; none of its reads is in flight."""

    incarnation: str


Command = AddAgent | WarmUp | RemoveAgent


@dataclass(slots=True)
class _Peer:
    address: Address
    state: PeerState = PeerState.GREETED
    reads: int = 0
    added: bool = field(default=False)

    def move(self, event: PeerEvent) -> None:
        edges = TRANSITIONS[self.state]
        assert event in edges, f"peer at {self.address}: {event} in {self.state}"
        self.state = edges[event]


class PeerTable:
    """All peers of this process."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}
        self._latest: OrderedDict[Address, str] = OrderedDict()
        self._stale: OrderedDict[str, None] = OrderedDict()

    def connected(self) -> list[str]:
        """Return the incarnations that may be read."""
        return [name for name, peer in self._peers.items() if peer.state is PeerState.CONNECTED]

    def state(self, incarnation: str) -> PeerState:
        """Return the state of an incarnation; one never greeted counts as removed."""
        peer = self._peers.get(incarnation)
        return PeerState.REMOVED if peer is None else peer.state

    def greet(self, incarnation: str, address: Address) -> list[Command]:
        """A compatible peer said hello at `address`; whoever lived there before is gone.

        Raises `StalePeerError` for an incarnation that was replaced, or that is in force at another address.
        """
        if incarnation in self._stale:
            raise StalePeerError(f"incarnation {incarnation} was replaced by a later one")
        known = self._peers.get(incarnation)
        if known is not None and known.state is not PeerState.DRAINING:
            host, port = known.address
            raise StalePeerError(f"incarnation {incarnation} is already connected at {host}:{port}")
        commands = self._replace(incarnation, address)
        if known is None:
            self._peers[incarnation] = _Peer(address)
        else:
            known.address = address
        return commands

    def described(self, incarnation: str, address: Address) -> list[Command]:
        """The description of a greeted peer is here."""
        # A draining peer that was greeted again may have ended its last read, and so been removed, meanwhile.
        peer = self._peers.setdefault(incarnation, _Peer(address))
        peer.move(PeerEvent.RETURNED if peer.state is PeerState.DRAINING else PeerEvent.DESCRIBED)
        if peer.added:
            return [WarmUp(incarnation)]
        peer.added = True
        return [AddAgent(incarnation), WarmUp(incarnation)]

    def warmed(self, incarnation: str) -> None:
        """One block was read."""
        self._peers[incarnation].move(PeerEvent.WARMED)

    def read_began(self, incarnation: str) -> None:
        """A read of the peer's memory is about to be posted."""
        self._peers[incarnation].reads += 1

    def read_ended(self, incarnation: str) -> list[Command]:
        """A read of the peer's memory is terminal."""
        peer = self._peers[incarnation]
        peer.reads -= 1
        if peer.reads or peer.state is not PeerState.DRAINING:
            return []
        return self._remove(incarnation, PeerEvent.LAST_READ_ENDED)

    def lost(self, incarnation: str) -> list[Command]:
        """The control channel to the peer broke, or its handshake failed after the greeting."""
        peer = self._peers.get(incarnation)
        if peer is None or peer.state is PeerState.DRAINING:
            return []
        if peer.reads:
            peer.move(PeerEvent.LOST_WHILE_READING)
            return []
        return self._remove(incarnation, PeerEvent.LOST)

    def _replace(self, incarnation: str, address: Address) -> list[Command]:
        before = self._latest.pop(address, incarnation)
        self._latest[address] = incarnation
        if before == incarnation:
            return []
        self._stale[before] = None
        for remembered in (self._latest, self._stale):
            if len(remembered) > REMEMBERED:
                remembered.popitem(last=False)
        return self.lost(before)

    def _remove(self, incarnation: str, event: PeerEvent) -> list[Command]:
        peer = self._peers.pop(incarnation)
        peer.move(event)
        return [RemoveAgent(incarnation)] if peer.added else []

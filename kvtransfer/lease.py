"""Leases on offered KV blocks: the prefill worker's half of a hand-over, with no I/O and no clock.

A lease holds blocks of the local pool for `consumers` peers. It is fed events and the time (seconds on this
process's monotonic clock) and says when the blocks are free again. `grant_desk.py` feeds it.

    OFFERED   held, and nobody may be reading
    GRANTED   held, and at least one consumer may be reading
    CLOSING   given up by its owner or settled by all its consumers, but somebody may still be reading
    ENDED     free

A consumer settles its share once, by acknowledging (it has the bytes) or by cancelling (it wants none). A
lease ends when all shares are settled, when it is released, or when its time is up; but a release, or a
settlement by somebody else, never takes blocks from under a consumer that was granted them: only that
consumer's own settlement, or expiry, does. Consumers trust nothing they read after expiry, so expiry needs
nobody's consent.
"""

import enum
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

from .service import LeaseEnd, LeaseEnded, Offer

REMEMBERED_ENDS = 4096
"""Ended leases whose names are kept, so that a repeated settlement is told from an unknown lease."""


class LeaseState(enum.Enum):
    """Where a lease is in its life."""

    OFFERED = "offered"
    GRANTED = "granted"
    CLOSING = "closing"
    ENDED = "ended"


class LeaseEvent(enum.Enum):
    """What can happen to a lease; settlements are told apart by what they leave behind."""

    GRANT = "grant"
    RENEW = "renew"
    SETTLED = "a share was settled, shares remain, readers are as before"
    LAST_READER_LEFT = "a share was settled, shares remain, nobody reads"
    SHARES_DONE = "the last share was settled, a granted consumer still reads"
    ALL_DONE = "the last share was settled, nobody reads"
    RELEASE = "release"
    EXPIRE = "expire"


TRANSITIONS: dict[LeaseState, dict[LeaseEvent, LeaseState]] = {
    LeaseState.OFFERED: {
        LeaseEvent.GRANT: LeaseState.GRANTED,
        LeaseEvent.SETTLED: LeaseState.OFFERED,
        LeaseEvent.ALL_DONE: LeaseState.ENDED,
        LeaseEvent.RELEASE: LeaseState.ENDED,
        LeaseEvent.EXPIRE: LeaseState.ENDED,
    },
    LeaseState.GRANTED: {
        LeaseEvent.GRANT: LeaseState.GRANTED,
        LeaseEvent.RENEW: LeaseState.GRANTED,
        LeaseEvent.SETTLED: LeaseState.GRANTED,
        LeaseEvent.LAST_READER_LEFT: LeaseState.OFFERED,
        LeaseEvent.SHARES_DONE: LeaseState.CLOSING,
        LeaseEvent.ALL_DONE: LeaseState.ENDED,
        LeaseEvent.RELEASE: LeaseState.CLOSING,
        LeaseEvent.EXPIRE: LeaseState.ENDED,
    },
    LeaseState.CLOSING: {
        LeaseEvent.RENEW: LeaseState.CLOSING,
        LeaseEvent.SETTLED: LeaseState.CLOSING,
        LeaseEvent.LAST_READER_LEFT: LeaseState.ENDED,
        LeaseEvent.SHARES_DONE: LeaseState.CLOSING,
        LeaseEvent.ALL_DONE: LeaseState.ENDED,
        LeaseEvent.RELEASE: LeaseState.CLOSING,
        LeaseEvent.EXPIRE: LeaseState.ENDED,
    },
    LeaseState.ENDED: {},
}


class LeaseRefusal(enum.Enum):
    """Why a consumer gets no grant."""

    UNKNOWN = "unknown"
    """Never offered, or ended."""
    CLOSING = "closing"
    SETTLED = "settled"
    """This consumer has settled its share already."""
    FOREIGN_BLOCKS = "foreign_blocks"
    """It asked for blocks the lease does not hold."""
    NOT_GRANTED = "not_granted"
    """A renewal by somebody who holds no grant."""


class Settlement(enum.Enum):
    """How a consumer settles its share."""

    ACKNOWLEDGED = "acknowledged"
    CANCELLED = "cancelled"


class Settled(enum.Enum):
    """What a settlement met."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    AFTER_EXPIRY = "after_expiry"
    """The blocks were free before the consumer was done: whatever it read must not be trusted."""
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Lease:
    """One offer, who reads it and who is done with it."""

    offer: Offer
    expires_at: float
    state: LeaseState = LeaseState.OFFERED
    readers: set[str] = field(default_factory=set)
    settled: dict[str, Settlement] = field(default_factory=dict)

    def move(self, event: LeaseEvent) -> None:
        """Take the table's edge; an event the state has no edge for is a defect of the caller."""
        edges = TRANSITIONS[self.state]
        assert event in edges, f"lease {self.offer.lease_id}: {event} in {self.state}"
        self.state = edges[event]

    def settle(self, consumer: str, settlement: Settlement) -> None:
        """Record one consumer's settlement and move accordingly."""
        was_reading = consumer in self.readers
        self.readers.discard(consumer)
        self.settled[consumer] = settlement
        self.move(self._settlement_event(was_reading))

    def _settlement_event(self, was_reading: bool) -> LeaseEvent:
        if len(self.settled) >= self.offer.consumers:
            return LeaseEvent.SHARES_DONE if self.readers else LeaseEvent.ALL_DONE
        if was_reading and not self.readers:
            return LeaseEvent.LAST_READER_LEFT
        return LeaseEvent.SETTLED

    @property
    def end(self) -> LeaseEnd:
        """How a lease that ended by settlement or release is to be reported."""
        acknowledged = sum(how is Settlement.ACKNOWLEDGED for how in self.settled.values())
        return LeaseEnd.ACKNOWLEDGED if acknowledged >= self.offer.consumers else LeaseEnd.RELEASED


class LeaseTable:
    """All leases of one pool. Methods return `LeaseEnded` for each lease whose blocks became free."""

    def __init__(self, *, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self._leases: dict[str, Lease] = {}
        self._ends: OrderedDict[str, LeaseEnd] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def readers(self) -> int:
        """Grants that are neither settled nor expired."""
        return sum(len(lease.readers) for lease in self._leases.values())

    def state(self, lease_id: str) -> LeaseState:
        """Return the state of a lease; one that is not held any more, or never was, is ENDED."""
        lease = self._leases.get(lease_id)
        return LeaseState.ENDED if lease is None else lease.state

    def offer(self, offer: Offer, now: float) -> None:
        """Hold the blocks of an offer from now on. Raises `ValueError` for a lease id that is in use."""
        if offer.lease_id in self._leases:
            raise ValueError(f"lease_id: {offer.lease_id!r} is already offered")
        if offer.consumers < 1:
            raise ValueError(f"consumers: expected at least 1, got {offer.consumers}")
        self._leases[offer.lease_id] = Lease(offer, expires_at=now + self.ttl_s)

    def grant(
        self, lease_id: str, consumer: str, block_ids: Collection[int], now: float
    ) -> LeaseRefusal | None:
        """Let `consumer` read `block_ids` for `ttl_s` from now; None when granted."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return LeaseRefusal.UNKNOWN
        if consumer in lease.settled:
            return LeaseRefusal.SETTLED
        if lease.state is LeaseState.CLOSING and consumer not in lease.readers:
            return LeaseRefusal.CLOSING
        if not set(block_ids) <= set(lease.offer.block_ids):
            return LeaseRefusal.FOREIGN_BLOCKS
        repeated = consumer in lease.readers
        lease.readers.add(consumer)
        self._extend(lease, LeaseEvent.RENEW if repeated else LeaseEvent.GRANT, now)
        return None

    def renew(self, lease_id: str, consumer: str, now: float) -> LeaseRefusal | None:
        """Hold the blocks for `ttl_s` from now for a consumer that reads them; None when renewed."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return LeaseRefusal.UNKNOWN
        if consumer not in lease.readers:
            return LeaseRefusal.NOT_GRANTED
        self._extend(lease, LeaseEvent.RENEW, now)
        return None

    def settle(
        self, lease_id: str, consumer: str, settlement: Settlement
    ) -> tuple[Settled, list[LeaseEnded]]:
        """Record that a consumer is done; repeating it changes nothing."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return self._settle_ended(lease_id), []
        if consumer in lease.settled:
            return Settled.REPEATED, []
        lease.settle(consumer, settlement)
        return Settled.ACCEPTED, self._ended(lease, lease.end)

    def release(self, lease_id: str) -> list[LeaseEnded]:
        """Give a lease up: at once if nobody may be reading, else when the readers are done."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return []
        lease.move(LeaseEvent.RELEASE)
        return self._ended(lease, lease.end)

    def expire(self, now: float) -> list[LeaseEnded]:
        """End every lease whose time is up."""
        due = [lease for lease in self._leases.values() if now >= lease.expires_at]
        ended = []
        for lease in due:
            lease.move(LeaseEvent.EXPIRE)
            ended += self._ended(lease, LeaseEnd.EXPIRED)
        return ended

    def next_expiry(self) -> float | None:
        """Return the earliest time at which `expire` has something to do."""
        return min((lease.expires_at for lease in self._leases.values()), default=None)

    def _extend(self, lease: Lease, event: LeaseEvent, now: float) -> None:
        lease.move(event)
        lease.expires_at = max(lease.expires_at, now + self.ttl_s)

    def _ended(self, lease: Lease, how: LeaseEnd) -> list[LeaseEnded]:
        if lease.state is not LeaseState.ENDED:
            return []
        lease_id = lease.offer.lease_id
        del self._leases[lease_id]
        self._ends[lease_id] = how
        self._ends.move_to_end(lease_id)
        if len(self._ends) > REMEMBERED_ENDS:
            self._ends.popitem(last=False)
        return [LeaseEnded(lease_id=lease_id, how=how)]

    def _settle_ended(self, lease_id: str) -> Settled:
        match self._ends.get(lease_id):
            case None:
                return Settled.UNKNOWN
            case LeaseEnd.EXPIRED:
                return Settled.AFTER_EXPIRY
            case _:
                return Settled.REPEATED

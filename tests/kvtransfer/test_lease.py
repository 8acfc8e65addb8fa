"""Blocks under a lease are free exactly when nobody may trust what they read of them any more."""

from collections.abc import Callable

import pytest

from baton.kvtransfer.lease import (
    REMEMBERED_ENDS,
    TRANSITIONS,
    Lease,
    LeaseEvent,
    LeaseRefusal,
    LeaseState,
    LeaseTable,
    Settled,
    Settlement,
)
from baton.kvtransfer.service import LeaseEnd, LeaseEnded, Offer

TTL_S = 30.0
ACK, CANCEL = Settlement.ACKNOWLEDGED, Settlement.CANCELLED
Edge = tuple[LeaseState, LeaseEvent, LeaseState]


def table(consumers: int = 1) -> LeaseTable:
    leases = LeaseTable(ttl_s=TTL_S)
    leases.offer(Offer(lease_id="r1", block_ids=(4, 7), consumers=consumers), now=0.0)
    return leases


def ended(how: LeaseEnd) -> list[LeaseEnded]:
    return [LeaseEnded(lease_id="r1", how=how)]


def test_an_acknowledged_lease_ends() -> None:
    leases = table()

    assert leases.grant("r1", "d1", [4, 7], now=1.0) is None
    assert leases.settle("r1", "d1", ACK) == (Settled.ACCEPTED, ended(LeaseEnd.ACKNOWLEDGED))
    assert len(leases) == 0


def test_a_full_hit_acknowledges_without_a_grant() -> None:
    assert table().settle("r1", "d1", ACK) == (Settled.ACCEPTED, ended(LeaseEnd.ACKNOWLEDGED))


def test_a_cancel_of_the_only_consumer_ends_the_lease_as_released() -> None:
    leases = table()
    leases.grant("r1", "d1", [4], now=1.0)

    assert leases.settle("r1", "d1", CANCEL) == (Settled.ACCEPTED, ended(LeaseEnd.RELEASED))


def test_every_consumer_has_to_settle() -> None:
    leases = table(consumers=2)
    leases.grant("r1", "d1", [4], now=1.0)
    leases.grant("r1", "d2", [7], now=1.0)

    assert leases.settle("r1", "d1", ACK) == (Settled.ACCEPTED, [])
    assert leases.settle("r1", "d2", ACK) == (Settled.ACCEPTED, ended(LeaseEnd.ACKNOWLEDGED))


def test_a_repeated_acknowledgement_counts_once() -> None:
    leases = table(consumers=2)
    leases.settle("r1", "d1", ACK)

    assert leases.settle("r1", "d1", ACK) == (Settled.REPEATED, [])
    leases.settle("r1", "d2", ACK)
    assert leases.settle("r1", "d2", ACK) == (Settled.REPEATED, [])


def test_silence_ends_the_lease_at_its_time_and_not_before() -> None:
    leases = table()

    assert leases.next_expiry() == TTL_S
    assert leases.expire(now=29.999) == []
    assert leases.expire(now=30.0) == ended(LeaseEnd.EXPIRED)
    assert leases.next_expiry() is None


def test_a_grant_gives_the_full_time_again() -> None:
    leases = table()
    leases.grant("r1", "d1", [4], now=20.0)

    assert leases.expire(now=49.999) == []
    assert leases.expire(now=50.0) == ended(LeaseEnd.EXPIRED)


def test_a_renewal_gives_the_full_time_again_but_only_to_a_reader() -> None:
    leases = table()
    leases.grant("r1", "d1", [4], now=0.0)

    assert leases.renew("r1", "d1", now=25.0) is None
    assert leases.renew("r1", "d2", now=40.0) is LeaseRefusal.NOT_GRANTED
    assert leases.expire(now=54.999) == []
    assert leases.expire(now=55.0) == ended(LeaseEnd.EXPIRED)
    assert leases.renew("r1", "d1", now=56.0) is LeaseRefusal.UNKNOWN


def test_an_acknowledgement_after_expiry_is_told_apart() -> None:
    leases = table()
    leases.expire(now=30.0)

    assert leases.settle("r1", "d1", ACK) == (Settled.AFTER_EXPIRY, [])
    assert leases.settle("never offered", "d1", ACK) == (Settled.UNKNOWN, [])


def test_a_release_takes_effect_at_once_when_nobody_reads() -> None:
    assert table().release("r1") == ended(LeaseEnd.RELEASED)


@pytest.mark.parametrize(("how", "end"), [(ACK, LeaseEnd.ACKNOWLEDGED), (CANCEL, LeaseEnd.RELEASED)])
def test_a_release_waits_for_a_reader(how: Settlement, end: LeaseEnd) -> None:
    leases = table()
    leases.grant("r1", "d1", [4], now=1.0)

    assert leases.release("r1") == []
    assert leases.state("r1") is LeaseState.CLOSING
    assert leases.settle("r1", "d1", how) == (Settled.ACCEPTED, ended(end))


def test_a_released_lease_takes_no_new_reader_but_its_readers_may_go_on() -> None:
    leases = table()
    leases.grant("r1", "d1", [4], now=1.0)
    leases.release("r1")

    assert leases.grant("r1", "d2", [4], now=2.0) is LeaseRefusal.CLOSING
    assert leases.grant("r1", "d1", [4], now=2.0) is None
    assert leases.renew("r1", "d1", now=20.0) is None
    assert leases.expire(now=49.0) == []


def test_a_released_lease_with_a_silent_reader_still_expires() -> None:
    leases = table()
    leases.grant("r1", "d1", [4], now=1.0)
    leases.release("r1")

    assert leases.expire(now=31.0) == ended(LeaseEnd.EXPIRED)


def test_another_consumers_settlement_never_takes_blocks_from_under_a_reader() -> None:
    leases = table()
    leases.grant("r1", "lost", [4], now=1.0)
    leases.grant("r1", "d2", [4], now=2.0)

    assert leases.settle("r1", "d2", ACK) == (Settled.ACCEPTED, [])
    assert leases.readers == 1
    assert leases.settle("r1", "lost", CANCEL) == (Settled.ACCEPTED, ended(LeaseEnd.ACKNOWLEDGED))


def test_a_settled_consumer_gets_no_second_grant() -> None:
    leases = table(consumers=2)
    leases.settle("r1", "d1", ACK)

    assert leases.grant("r1", "d1", [4], now=1.0) is LeaseRefusal.SETTLED


def test_blocks_outside_the_lease_are_refused() -> None:
    assert table().grant("r1", "d1", [4, 5], now=1.0) is LeaseRefusal.FOREIGN_BLOCKS


def test_an_unknown_lease_is_refused_and_its_release_is_no_error() -> None:
    leases = table()

    assert leases.grant("other", "d1", [], now=1.0) is LeaseRefusal.UNKNOWN
    assert leases.release("other") == []


def test_a_lease_id_in_use_is_refused() -> None:
    with pytest.raises(ValueError, match="lease_id: 'r1' is already offered"):
        table().offer(Offer(lease_id="r1", block_ids=()), now=0.0)


def test_an_offer_to_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="consumers: expected at least 1, got 0"):
        LeaseTable(ttl_s=1.0).offer(Offer(lease_id="r1", block_ids=(), consumers=0), now=0.0)


def test_the_memory_of_ended_leases_is_bounded() -> None:
    leases = LeaseTable(ttl_s=TTL_S)
    for number in range(REMEMBERED_ENDS + 1):
        leases.offer(Offer(lease_id=str(number), block_ids=()), now=0.0)
        leases.settle(str(number), "d1", ACK)

    assert leases.settle("0", "d1", ACK)[0] is Settled.UNKNOWN
    assert leases.settle("1", "d1", ACK)[0] is Settled.REPEATED


def lease(readers: set[str], settled: set[str], state: LeaseState, consumers: int = 2) -> Lease:
    offer = Offer(lease_id="r1", block_ids=(4,), consumers=consumers)
    return Lease(offer, 1.0, state, readers, dict.fromkeys(settled, ACK))


def settling(consumer: str) -> Callable[[Lease], None]:
    return lambda lease: lease.settle(consumer, ACK)


def moving(event: LeaseEvent) -> Callable[[Lease], None]:
    return lambda lease: lease.move(event)


OFF, GRA, CLO, END = LeaseState.OFFERED, LeaseState.GRANTED, LeaseState.CLOSING, LeaseState.ENDED
EDGES: list[tuple[Lease, Callable[[Lease], None], Edge]] = [
    (lease(set(), set(), OFF), moving(LeaseEvent.GRANT), (OFF, LeaseEvent.GRANT, GRA)),
    (lease(set(), set(), OFF), settling("a"), (OFF, LeaseEvent.SETTLED, OFF)),
    (lease(set(), {"b"}, OFF), settling("a"), (OFF, LeaseEvent.ALL_DONE, END)),
    (lease(set(), set(), OFF), moving(LeaseEvent.RELEASE), (OFF, LeaseEvent.RELEASE, END)),
    (lease(set(), set(), OFF), moving(LeaseEvent.EXPIRE), (OFF, LeaseEvent.EXPIRE, END)),
    (lease({"a"}, set(), GRA), moving(LeaseEvent.GRANT), (GRA, LeaseEvent.GRANT, GRA)),
    (lease({"a"}, set(), GRA), moving(LeaseEvent.RENEW), (GRA, LeaseEvent.RENEW, GRA)),
    (lease({"a"}, set(), GRA), settling("b"), (GRA, LeaseEvent.SETTLED, GRA)),
    (lease({"a"}, set(), GRA), settling("a"), (GRA, LeaseEvent.LAST_READER_LEFT, OFF)),
    (lease({"a"}, {"c"}, GRA), settling("b"), (GRA, LeaseEvent.SHARES_DONE, CLO)),
    (lease({"a"}, {"c"}, GRA), settling("a"), (GRA, LeaseEvent.ALL_DONE, END)),
    (lease({"a"}, set(), GRA), moving(LeaseEvent.RELEASE), (GRA, LeaseEvent.RELEASE, CLO)),
    (lease({"a"}, set(), GRA), moving(LeaseEvent.EXPIRE), (GRA, LeaseEvent.EXPIRE, END)),
    (lease({"a"}, set(), CLO), moving(LeaseEvent.RENEW), (CLO, LeaseEvent.RENEW, CLO)),
    (lease({"a", "b"}, set(), CLO), settling("b"), (CLO, LeaseEvent.SETTLED, CLO)),
    (lease({"a"}, set(), CLO), settling("a"), (CLO, LeaseEvent.LAST_READER_LEFT, END)),
    (lease({"a", "b"}, {"c"}, CLO), settling("b"), (CLO, LeaseEvent.SHARES_DONE, CLO)),
    (lease({"a"}, {"c"}, CLO), settling("a"), (CLO, LeaseEvent.ALL_DONE, END)),
    (lease({"a"}, set(), CLO), moving(LeaseEvent.RELEASE), (CLO, LeaseEvent.RELEASE, CLO)),
    (lease({"a"}, set(), CLO), moving(LeaseEvent.EXPIRE), (CLO, LeaseEvent.EXPIRE, END)),
]


@pytest.mark.parametrize(
    ("start", "act", "edge"), EDGES, ids=[f"{e[0].value}-{e[1].name}" for _, _, e in EDGES]
)
def test_each_edge_leads_where_the_table_says(start: Lease, act: Callable[[Lease], None], edge: Edge) -> None:
    assert start.state is edge[0]

    act(start)

    assert start.state is edge[2]


def test_the_edges_above_are_all_there_are() -> None:
    table_edges = {(state, event, to) for state, edges in TRANSITIONS.items() for event, to in edges.items()}

    assert {edge for _, _, edge in EDGES} == table_edges


@pytest.mark.parametrize("event", list(LeaseEvent))
def test_an_ended_lease_never_moves(event: LeaseEvent) -> None:
    with pytest.raises(AssertionError, match=r"in LeaseState\.ENDED"):
        lease(set(), set(), END).move(event)

"""A restarted worker is a new peer; the old one is drained and removed, and never readable again."""

from collections.abc import Callable

import pytest

from baton.kvtransfer.peers import (
    REMEMBERED,
    TRANSITIONS,
    AddAgent,
    PeerEvent,
    PeerState,
    PeerTable,
    RemoveAgent,
    StalePeerError,
    WarmUp,
)

HERE = ("10.0.0.1", 7000)
THERE = ("10.0.0.2", 7000)


def greeted(incarnation: str = "a") -> PeerTable:
    peers = PeerTable()
    assert peers.greet(incarnation, HERE) == []
    return peers


def warming() -> PeerTable:
    peers = greeted()
    assert peers.described("a", HERE) == [AddAgent("a"), WarmUp("a")]
    return peers


def connected() -> PeerTable:
    peers = warming()
    peers.warmed("a")
    return peers


def draining() -> PeerTable:
    peers = connected()
    peers.read_began("a")
    assert peers.lost("a") == []
    return peers


def test_a_peer_may_be_read_after_greeting_description_and_warm_up() -> None:
    peers = connected()

    assert peers.connected() == ["a"]
    assert peers.state("a") is PeerState.CONNECTED


def test_nothing_is_decoded_before_the_description_of_a_greeted_peer() -> None:
    assert greeted().lost("a") == []


def test_a_peer_lost_with_nothing_in_flight_is_removed_at_once() -> None:
    peers = connected()

    assert peers.lost("a") == [RemoveAgent("a")]
    assert peers.connected() == []


def test_a_peer_lost_while_reading_is_removed_after_its_last_read() -> None:
    peers = connected()
    peers.read_began("a")
    peers.read_began("a")

    assert peers.lost("a") == []
    assert peers.connected() == []
    assert peers.read_ended("a") == []
    assert peers.read_ended("a") == [RemoveAgent("a")]


def test_a_restarted_worker_is_added_beside_the_old_one_that_drains() -> None:
    peers = draining()

    assert peers.greet("b", HERE) == []
    assert peers.described("b", HERE) == [AddAgent("b"), WarmUp("b")]
    assert peers.read_ended("a") == [RemoveAgent("a")]


def test_a_restarted_worker_removes_the_old_one_that_is_idle() -> None:
    assert connected().greet("b", HERE) == [RemoveAgent("a")]


def test_a_replaced_incarnation_is_refused() -> None:
    peers = connected()
    peers.lost("a")
    peers.greet("b", HERE)

    with pytest.raises(StalePeerError, match="incarnation a was replaced by a later one"):
        peers.greet("a", HERE)


def test_the_same_incarnation_at_a_second_address_is_refused_while_the_first_is_open() -> None:
    with pytest.raises(StalePeerError, match=r"already connected at 10\.0\.0\.1:7000"):
        connected().greet("a", THERE)


def test_the_same_incarnation_may_return_after_its_connection_broke() -> None:
    peers = connected()
    peers.lost("a")

    assert peers.greet("a", HERE) == []
    assert peers.described("a", HERE) == [AddAgent("a"), WarmUp("a")]


def test_a_draining_peer_that_returns_keeps_its_agent() -> None:
    peers = draining()
    peers.greet("a", HERE)

    assert peers.described("a", HERE) == [WarmUp("a")]
    peers.warmed("a")
    assert peers.read_ended("a") == []
    assert peers.connected() == ["a"]


def test_a_draining_peer_that_returns_after_its_last_read_is_added_anew() -> None:
    peers = draining()
    peers.greet("a", HERE)

    assert peers.read_ended("a") == [RemoveAgent("a")]
    assert peers.described("a", HERE) == [AddAgent("a"), WarmUp("a")]


def test_peers_at_different_addresses_do_not_replace_each_other() -> None:
    peers = connected()

    assert peers.greet("b", THERE) == []
    assert peers.connected() == ["a"]


def test_the_memory_of_addresses_and_stale_incarnations_is_bounded() -> None:
    peers = PeerTable()
    for number in range(REMEMBERED + 2):
        peers.greet(str(number), HERE)
        peers.lost(str(number))

    with pytest.raises(StalePeerError):
        peers.greet("1", HERE)
    assert peers.greet("0", HERE) == []  # forgotten


WALKS: list[tuple[Callable[[], PeerTable], PeerEvent, Callable[[PeerTable], object]]] = [
    (greeted, PeerEvent.DESCRIBED, lambda p: p.described("a", HERE)),
    (greeted, PeerEvent.LOST, lambda p: p.lost("a")),
    (warming, PeerEvent.WARMED, lambda p: p.warmed("a")),
    (warming, PeerEvent.LOST, lambda p: p.lost("a")),
    (warming, PeerEvent.LOST_WHILE_READING, lambda p: (p.read_began("a"), p.lost("a"))),
    (connected, PeerEvent.LOST, lambda p: p.lost("a")),
    (connected, PeerEvent.LOST_WHILE_READING, lambda p: (p.read_began("a"), p.lost("a"))),
    (draining, PeerEvent.LAST_READ_ENDED, lambda p: p.read_ended("a")),
    (draining, PeerEvent.RETURNED, lambda p: (p.greet("a", HERE), p.described("a", HERE))),
]


@pytest.mark.parametrize(("build", "event", "act"), WALKS)
def test_each_edge_leads_where_the_table_says(
    build: Callable[[], PeerTable], event: PeerEvent, act: Callable[[PeerTable], object]
) -> None:
    peers = build()
    target = TRANSITIONS[peers.state("a")][event]

    act(peers)

    assert peers.state("a") is target


def test_the_walks_above_are_all_edges_there_are() -> None:
    walked = {(build().state("a"), event) for build, event, _ in WALKS}

    assert walked == {(state, event) for state, edges in TRANSITIONS.items() for event in edges}

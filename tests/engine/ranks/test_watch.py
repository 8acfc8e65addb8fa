"""Every rank hears a ring, and which rank has ended, whichever it was."""

import threading
from collections.abc import Iterator

import pytest

from baton.engine.ranks.errors import GroupFailedError
from baton.engine.ranks.watch import Watch, accept_peers, call_rank_0, listen

RANKS = 3
DEADLINE_S = 20.0


class Member:
    """One rank's end of the line, and whether something has changed there."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.changed = threading.Event()
        self.watch: Watch

    def join_at(self, host: str, port: int) -> None:
        peers = {0: call_rank_0(host, port, self.rank, DEADLINE_S)}
        self.watch = Watch(self.rank, peers, self.changed.set)


@pytest.fixture
def members() -> Iterator[list[Member]]:
    first, *others = made = [Member(rank) for rank in range(RANKS)]
    with listen("127.0.0.1") as listener:
        for member in others:
            member.join_at(*listener.getsockname())
        peers = accept_peers(listener, RANKS, DEADLINE_S)
    first.watch = Watch(0, peers, first.changed.set)
    yield made
    for member in made:
        member.watch.close()


@pytest.mark.parametrize("ringing", [0, 2])
def test_a_ring_reaches_every_other_rank(members: list[Member], ringing: int) -> None:
    members[ringing].watch.ring(5)

    for member in members:
        if member.rank != ringing:
            assert member.changed.wait(DEADLINE_S)
            assert member.watch.rung_wave == 5
    assert members[ringing].watch.rung_wave is None


@pytest.mark.parametrize("ending", [0, 1])
def test_every_rank_learns_which_one_has_ended(members: list[Member], ending: int) -> None:
    members[ending].watch.close()

    others = [member for member in members if member.rank != ending]
    assert [member.watch.wait_for_loss(DEADLINE_S) for member in others] == [ending, ending]


def test_only_ranks_that_are_missing_are_taken() -> None:
    with listen("127.0.0.1") as listener:
        place = listener.getsockname()
        calls = [call_rank_0(*place, rank, DEADLINE_S) for rank in (1, 1, 0, 7, 2)]
        peers = accept_peers(listener, 3, DEADLINE_S)

    assert sorted(peers) == [1, 2]
    assert [call.getsockname() for call in (calls[0], calls[4])] == [
        peers[rank].getpeername() for rank in (1, 2)
    ]
    for connection in (*calls, *peers.values()):
        connection.close()


def test_a_rank_that_does_not_call_is_named() -> None:
    with listen("127.0.0.1") as listener, pytest.raises(GroupFailedError, match=r"ranks \[1\] did not call"):
        accept_peers(listener, 2, 0.05)

"""Writes of one turn go out together at its end, each connection's in order, and none is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.proxy.cork import MOST_HELD, Cork, CorkedTransport

from .lanes import HandLoop


class Peer:
    """A transport that keeps what was done to it."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.closing = False
        self.fails = False

    @property
    def got(self) -> bytes:
        return b"".join(each for each in self.done if isinstance(each, bytes))

    def write(self, data: bytes) -> None:
        if self.fails:
            raise OSError("no route")
        self.done.append(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.done += pieces

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 100


class Bench:
    """Corked transports and the peers below them."""

    def __init__(self, count: int) -> None:
        self.loop = HandLoop()
        cork = Cork(self.loop)  # type: ignore[arg-type]
        self.peers = [Peer() for _ in range(count)]
        self.corked = [CorkedTransport(peer, cork) for peer in self.peers]  # type: ignore[arg-type]


def test_nothing_is_written_before_the_turn_ends() -> None:
    bench = Bench(2)
    for corked in bench.corked:
        corked.write(b"a")
        corked.write(b"b")
    assert [peer.got for peer in bench.peers] == [b"", b""]
    assert bench.corked[0].get_write_buffer_size() == 102
    bench.loop.end_turn()
    assert [peer.done for peer in bench.peers] == [[b"a", b"b"]] * 2


@given(st.lists(st.tuples(st.integers(0, 2 * MOST_HELD), st.integers(0, 9)), max_size=300))
def test_every_connection_gets_its_bytes_in_order(writes: list[tuple[int, int]]) -> None:
    bench, wanted = Bench(2 * MOST_HELD + 1), [b""] * (2 * MOST_HELD + 1)
    for number, (peer, digit) in enumerate(writes):
        bench.corked[peer].write(b"%d" % digit)
        wanted[peer] += b"%d" % digit
        if number % 50 == 49:
            bench.loop.end_turn()
    bench.loop.end_turn()
    assert [peer.got for peer in bench.peers] == wanted


def test_no_more_connections_than_allowed_wait_for_each_other() -> None:
    bench = Bench(MOST_HELD)
    for corked in bench.corked[:-1]:
        corked.write(b"x")
    assert not any(peer.got for peer in bench.peers)
    bench.corked[-1].write(b"x")
    assert all(peer.got for peer in bench.peers)


@pytest.mark.parametrize("end", ["close", "write_eof"])
def test_what_was_written_goes_out_before_the_end(end: str) -> None:
    bench = Bench(1)
    bench.corked[0].write(b"last")
    getattr(bench.corked[0], end)()
    assert bench.peers[0].done == [b"last", end.removeprefix("write_")]
    bench.loop.end_turn()
    assert len(bench.peers[0].done) == 2


def test_an_aborted_connection_writes_no_more() -> None:
    bench = Bench(1)
    bench.corked[0].write(b"last")
    bench.corked[0].abort()
    bench.loop.end_turn()
    assert bench.peers[0].done == ["abort"]


def test_a_connection_that_ended_meanwhile_is_left_alone() -> None:
    bench = Bench(1)
    bench.corked[0].write(b"last")
    bench.peers[0].closing = True
    bench.loop.end_turn()
    assert bench.peers[0].done == []


def test_the_fault_of_one_connection_is_no_others_loss() -> None:
    bench = Bench(3)
    bench.peers[1].fails = True
    for corked in bench.corked:
        corked.write(b"x")
    with pytest.raises(OSError, match="no route"):
        bench.loop.end_turn()
    bench.loop.end_turn()
    assert [peer.got for peer in bench.peers] == [b"x", b"", b"x"]

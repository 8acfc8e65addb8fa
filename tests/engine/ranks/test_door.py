"""Rank 0 hears newcomers one at a time, and sends away those that would not fit in."""

import socket
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from baton.engine.ranks.door import Door
from baton.engine.ranks.errors import NotAdmittedError
from baton.engine.ranks.messages import Enter, Knock, Loaded, Refusal, Terms, ToNewcomer
from baton.engine.ranks.newcomer import Admission

DEADLINE_S = 20.0
TERMS = Terms(model="d1", role="decode", dtype=None, keep_fp8=None, max_num_seqs=8, bucket_sizes=None)


class Ranks:
    """Rank 0's door, and what its loop would see."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self.door = Door("127.0.0.1", TERMS, self._on_change)

    def until(self, happened: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(happened, DEADLINE_S)

    def _on_change(self) -> None:
        with self._news:
            self._news.notify_all()


class Visitor:
    """A newcomer's end of the line."""

    def __init__(self, ranks: Ranks, terms: Terms = TERMS) -> None:
        self.connection = socket.create_connection(("127.0.0.1", ranks.door.port), DEADLINE_S)
        self._lines = self.connection.makefile("rb")
        self.say(Knock(terms=terms))

    def say(self, message: Knock | Loaded) -> None:
        self.connection.sendall(msgspec.json.encode(message) + b"\n")

    def hear(self) -> ToNewcomer | None:
        line = self._lines.readline()
        return msgspec.json.decode(line, type=Enter | Refusal) if line else None

    def close(self) -> None:
        self._lines.close()
        self.connection.close()


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    made.door.close()


@pytest.fixture
def visitor(ranks: Ranks) -> Iterator[Visitor]:
    made = Visitor(ranks)
    yield made
    made.close()


def test_a_caller_is_heard_and_answered(ranks: Ranks, visitor: Visitor) -> None:
    ranks.until(lambda: ranks.door.caller is not None)
    caller = ranks.door.caller
    assert caller is not None
    assert not caller.has_loaded

    visitor.say(Loaded())
    ranks.until(lambda: caller.has_loaded)
    caller.say(Enter())

    assert visitor.hear() == Enter()


def test_a_caller_that_hangs_up_is_gone(ranks: Ranks, visitor: Visitor) -> None:
    ranks.until(lambda: ranks.door.caller is not None)

    visitor.close()

    ranks.until(lambda: ranks.door.caller is None)


def test_the_second_caller_waits_for_the_first_to_be_sent_away(ranks: Ranks, visitor: Visitor) -> None:
    ranks.until(lambda: ranks.door.caller is not None)
    first = ranks.door.caller
    assert first is not None
    second = Visitor(ranks)

    first.refuse("not today")

    assert visitor.hear() == Refusal(reason="not today")
    assert visitor.hear() is None
    ranks.until(lambda: ranks.door.caller not in (None, first))
    second.close()


def test_one_that_differs_is_told_in_what_and_is_no_caller(ranks: Ranks) -> None:
    visitor = Visitor(ranks, msgspec.structs.replace(TERMS, model="d2", max_num_seqs=9))

    refusal = visitor.hear()

    assert isinstance(refusal, Refusal)
    assert "model: 'd1' here, 'd2' there" in refusal.reason
    assert "max_num_seqs: 8 here, 9 there" in refusal.reason
    assert ranks.door.caller is None
    visitor.close()


def test_one_that_talks_nonsense_does_not_keep_others_out(ranks: Ranks) -> None:
    with socket.create_connection(("127.0.0.1", ranks.door.port), DEADLINE_S) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n")
        assert stranger.recv(1) == b""

    visitor = Visitor(ranks)

    ranks.until(lambda: ranks.door.caller is not None)
    visitor.close()


def test_a_newcomer_that_is_sent_away_knows_why(ranks: Ranks) -> None:
    connection = socket.create_connection(("127.0.0.1", ranks.door.port), DEADLINE_S)

    with pytest.raises(NotAdmittedError, match="'d1' here, 'd2' there"):
        Admission(connection, msgspec.structs.replace(TERMS, model="d2"))

    connection.close()

"""Conversations grow by what was said before, and a seed gives the same ones."""

from collections import deque

from baton.bench.proxy.prefix_hits import LIVE, REQUESTS, TURNS, Sessions, Turn, upper_bound


def turns(sessions: Sessions, at_once: int = 1) -> list[Turn]:
    """Return all turns in the order in which they are asked, with `at_once` unanswered at any time."""
    taken: list[Turn] = []
    waiting: deque[Turn] = deque()
    while True:
        turn = sessions.take() if len(waiting) < at_once else None
        if turn is not None:
            taken.append(turn)
            waiting.append(turn)
        elif waiting:
            sessions.answered(waiting.popleft())
        else:
            return taken


def test_a_turn_holds_all_turns_before_it() -> None:
    last: dict[int, Turn] = {}
    for turn in turns(Sessions(3)):
        before = last.get(turn.session)
        if before is not None:
            assert turn.messages[: len(before.messages)] == before.messages
            assert len(turn.messages) == len(before.messages) + 2
        last[turn.session] = turn

    assert max(len(turn.messages) for turn in last.values()) == 2 * TURNS


def test_a_conversation_waits_for_its_answer() -> None:
    sessions = Sessions(3)
    taken = [sessions.take() for _ in range(LIVE // 2)]

    assert len({turn.session for turn in taken if turn is not None}) == LIVE // 2


def test_a_seed_gives_the_same_conversations() -> None:
    assert turns(Sessions(3)) == turns(Sessions(3))


def test_what_is_asked_does_not_depend_on_who_answers_first() -> None:
    by_turn = [
        {(turn.session, len(turn.messages)): turn.messages for turn in turns(Sessions(3), at_once)}
        for at_once in (1, 4, LIVE)
    ]

    assert by_turn[0] == by_turn[1] == by_turn[2]
    assert len(by_turn[0]) == REQUESTS


def test_most_of_what_is_asked_was_asked_before() -> None:
    assert 0.7 < upper_bound() < 0.95

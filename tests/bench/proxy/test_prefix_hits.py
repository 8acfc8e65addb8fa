"""Conversations grow by what was said before, and a seed gives the same ones."""

import random

from baton.bench.proxy.prefix_hits import LIVE, REQUESTS, TURNS, Sessions, Turn, upper_bound


def turns(count: int) -> list[Turn]:
    sessions, taken = Sessions(random.Random(3)), []
    for _ in range(count):
        taken.append(sessions.take())
        sessions.answered(taken[-1])
    return taken


def test_a_turn_holds_all_turns_before_it() -> None:
    last: dict[int, Turn] = {}
    for turn in turns(REQUESTS):
        before = last.get(turn.session)
        if before is not None:
            assert turn.messages[: len(before.messages)] == before.messages
            assert len(turn.messages) == len(before.messages) + 2
        last[turn.session] = turn

    assert max(len(turn.messages) for turn in last.values()) == 2 * TURNS


def test_a_conversation_waits_for_its_answer() -> None:
    sessions = Sessions(random.Random(3))

    assert len({sessions.take().session for _ in range(LIVE)}) == LIVE


def test_a_seed_gives_the_same_conversations() -> None:
    assert turns(50) == turns(50)


def test_most_of_what_is_asked_was_asked_before() -> None:
    assert 0.7 < upper_bound() < 0.95

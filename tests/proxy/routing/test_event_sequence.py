"""Messages are applied in order, each once; what is missing is asked for, and told when it is lost."""

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.proxy.routing.event_sequence import Apply, AskReplay, EventSequence, Lost


def sequence(*numbers: int, can_replay: bool = True) -> EventSequence[str]:
    made: EventSequence[str] = EventSequence(can_replay=can_replay)
    for number in numbers:
        assert made.received(number, str(number)) == [Apply(str(number))]
    return made


def test_messages_in_order_are_applied_whatever_the_first_number() -> None:
    sequence(7, 8, 9)


def test_a_gap_is_asked_for_and_what_follows_waits_for_it() -> None:
    messages = sequence(0, 1)

    assert messages.received(4, "4") == [AskReplay(2)]
    assert messages.received(5, "5") == []
    assert messages.replayed(2, "2") == [Apply("2")]
    assert messages.replayed(3, "3") == [Apply("3")]
    assert messages.replayed(4, "4") == [Apply("4")]
    assert messages.replay_ended() == [Apply("5")]
    assert messages.received(6, "6") == [Apply("6")]


def test_a_replay_that_runs_ahead_of_the_publication_is_not_taken_for_a_restart() -> None:
    messages = sequence(0)
    messages.received(2, "2")
    for number in (1, 2, 3):
        messages.replayed(number, str(number))
    assert messages.replay_ended() == []

    assert messages.received(3, "3") == []
    assert messages.received(4, "4") == [Apply("4")]


def test_a_gap_that_the_replay_does_not_fill_is_lost() -> None:
    messages = sequence(0)
    messages.received(5, "5")
    messages.received(6, "6")
    assert messages.replayed(3, "3") == []

    assert messages.replay_ended() == [Lost(), Apply("5"), Apply("6")]


def test_without_a_place_to_ask_a_gap_is_lost_at_once() -> None:
    messages = sequence(0, can_replay=False)

    assert messages.received(5, "5") == [Lost(), Apply("5")]


def test_numbers_that_start_over_are_another_publisher_s() -> None:
    messages = sequence(5, 6)
    assert messages.received(0, "a") == [Lost(), Apply("a")]
    assert messages.received(1, "b") == [Apply("b")]

    messages.received(9, "held of the old one")
    assert messages.received(0, "c") == [Lost(), Apply("c")]
    assert messages.replay_ended() == []
    assert messages.received(1, "d") == [Apply("d")]


def test_what_is_held_is_bounded() -> None:
    messages = sequence(0)
    messages.received(2, "2")
    found = [command for number in range(3, 6000) for command in messages.received(number, str(number))]

    assert found.count(Lost()) == 1
    assert [each.message for each in found if isinstance(each, Apply)] == [str(n) for n in range(2, 6000)]


@settings(max_examples=60)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 10))
def test_with_a_whole_replay_nothing_is_lost_doubled_or_out_of_order(
    arrives: list[bool], keeps_back: int
) -> None:
    messages: EventSequence[int] = EventSequence(can_replay=True)
    applied: list[int] = []
    numbers = range(len(arrives))

    def take(found: list[Apply[int] | AskReplay | Lost]) -> None:
        for command in found:
            assert not isinstance(command, Lost)
            if isinstance(command, Apply):
                applied.append(command.message)

    last = -1
    for number in numbers:
        if arrives[number] or number == 0:
            last = number
            take(messages.received(number, number))
        if messages.replaying and number % (keeps_back + 1) == 0:
            for again in numbers[: number + 1]:
                take(messages.replayed(again, again))
            last = number
            take(messages.replay_ended())
    for again in numbers[: last + 1]:
        take(messages.replayed(again, again))
    take(messages.replay_ended())
    assert applied == list(numbers[: last + 1])

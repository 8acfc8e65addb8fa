"""Decode slots are counted exactly, and room is found wherever it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.proxy.routing.slots import DecodeSlots, SlotError

MODEL = "demo"


def slots(**capacities: int | None) -> DecodeSlots:
    made = DecodeSlots()
    for worker, capacity in capacities.items():
        made.offer(worker, [MODEL], capacity)
    return made


def test_a_slot_takes_room_until_it_is_released() -> None:
    held = slots(a=100)
    held.grant("r", "a", 70)

    assert not held.has_room(MODEL, 31)
    assert held.has_room(MODEL, 30)
    assert held.release("r") == ("a", 70)
    assert held.has_room(MODEL, 100)
    assert (len(held), held.held_tokens) == (0, 0)


def test_only_the_workers_without_room_are_full() -> None:
    held = slots(a=100, b=200, c=None)
    held.grant("r", "a", 60)
    held.grant("s", "b", 60)

    assert held.full_for(MODEL, 50) == {"a"}
    assert held.full_for(MODEL, 150) == {"a", "b"}
    assert held.full_for("another", 1) == set()


def test_a_request_larger_than_a_worker_gets_it_when_it_is_empty() -> None:
    held = slots(a=100)

    assert held.has_room(MODEL, 1000)
    assert held.full_for(MODEL, 1000) == set()
    held.grant("r", "a", 1)
    assert not held.has_room(MODEL, 1000)
    assert held.full_for(MODEL, 1000) == {"a"}


def test_a_worker_of_unknown_capacity_always_has_room() -> None:
    held = slots(a=None)
    held.grant("r", "a", 10**9)

    assert held.has_room(MODEL, 10**9)


def test_a_withdrawn_worker_has_no_room_and_keeps_count_of_what_it_holds() -> None:
    held = slots(a=100)
    held.grant("r", "a", 70)
    held.withdraw("a")

    assert not held.is_served(MODEL)
    assert held.held_by_worker() == {"a": 70}
    held.offer("a", [MODEL], 100)
    assert not held.has_room(MODEL, 31)
    held.withdraw("a")
    held.release("r")
    assert held.held_by_worker() == {}


def test_one_worker_of_two_models_has_its_room_once() -> None:
    held = DecodeSlots()
    held.offer("a", ["x", "y"], 100)
    held.grant("r", "a", 80)

    assert not held.has_room("x", 50)
    assert not held.has_room("y", 50)


def test_nobody_holds_two_slots() -> None:
    held = slots(a=100)
    held.grant("r", "a", 1)

    with pytest.raises(SlotError, match="already holds a slot on a"):
        held.grant("r", "a", 1)
    assert held.release("stranger") is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from("abc"), st.sampled_from([None, 50, 100])),
        st.tuples(st.just("withdraw"), st.sampled_from("abc"), st.none()),
        st.tuples(st.just("grant"), st.sampled_from("abc"), st.integers(1, 120)),
        st.tuples(st.just("release"), st.integers(0, 20), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=50)
@given(STEPS)
def test_whatever_happens_the_books_agree_with_a_plain_recount(
    steps: list[tuple[str, object, object]],
) -> None:
    held = DecodeSlots()
    granted: dict[int, tuple[str, int]] = {}
    capacity: dict[str, float] = {}
    for number, (what, who, how_much) in enumerate(steps):
        if what == "offer":
            held.offer(str(who), [MODEL], how_much)  # type: ignore[arg-type]
            capacity[str(who)] = float("inf") if how_much is None else how_much  # type: ignore[assignment]
        elif what == "withdraw":
            held.withdraw(str(who))
            capacity.pop(str(who), None)
        elif what == "grant":
            granted[number] = (str(who), how_much)  # type: ignore[assignment]
            held.grant(number, *granted[number])
        else:
            assert held.release(who) == granted.pop(who, None)  # type: ignore[call-overload]
        assert held.problems() == []
        used = {w: sum(t for name, t in granted.values() if name == w) for w in "abc"}
        busy = {name for name, _ in granted.values()}
        full = {w for w, most in capacity.items() if most - used[w] < 40 and w in busy}
        assert held.full_for(MODEL, 40) == full
        assert held.has_room(MODEL, 40) == bool(capacity.keys() - full)
        assert held.held_tokens == sum(used.values())

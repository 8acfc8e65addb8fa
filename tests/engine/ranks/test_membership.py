"""All change between the same two steps, or none does."""

import pytest

from baton.engine.ranks.lockstep import Plan, Wish, as_numbers, as_plan
from baton.engine.ranks.membership import Change, Membership, Next

RANKS = 3


def plan_of(*wishes: Wish) -> Plan:
    return as_plan([max(numbers) for numbers in zip(*map(as_numbers, wishes), strict=True)])


def wish(
    leaving: int | None = None, *, newcomer: bool = False, ready: bool = False, gives_up: bool = False
) -> Wish:
    flags = tuple(rank == leaving for rank in range(RANKS))
    return Wish(
        prompt_tokens=0,
        decode_rows=1,
        leaving=flags,
        has_newcomer=newcomer,
        is_prepared=ready,
        gives_up=gives_up,
    )


def told(membership: Membership, *plans: Plan) -> list[Next]:
    return [membership.on_plan(plan) for plan in plans]


READY = wish(ready=True)
LEAVES = plan_of(wish(1), wish(), wish())
JOINS = plan_of(wish(newcomer=True), wish(), wish())


@pytest.mark.parametrize(
    ("wanted", "half", "all_ready", "change"),
    [
        (
            LEAVES,
            plan_of(wish(1, ready=True), READY, wish()),
            plan_of(wish(1, ready=True), READY, READY),
            Change(leaving=(1,)),
        ),
        (
            JOINS,
            plan_of(wish(newcomer=True, ready=True), READY, wish()),
            plan_of(wish(newcomer=True, ready=True), READY, READY),
            Change(joins=True),
        ),
    ],
)
def test_ranks_change_once_all_are_ready(wanted: Plan, half: Plan, all_ready: Plan, change: Change) -> None:
    membership = Membership()

    assert told(membership, wanted, half, all_ready) == [Next.GET_READY, Next.NOTHING, Next.CHANGE]
    assert membership.under_way == change


def test_another_departure_starts_the_preparation_anew() -> None:
    membership = Membership()
    both_leave = plan_of(wish(1, ready=True), wish(2, ready=True), READY)

    assert told(membership, LEAVES, both_leave) == [Next.GET_READY, Next.GET_READY]
    assert membership.under_way == Change(leaving=(1, 2))
    assert membership.attempt == 2


def test_without_wishes_nobody_changes() -> None:
    assert told(Membership(), *[plan_of(READY)] * 3) == [Next.NOTHING] * 3


@pytest.mark.parametrize("wanted", [LEAVES, JOINS])
def test_when_one_gives_up_all_stay_though_others_are_ready(wanted: Plan) -> None:
    membership = Membership()
    fails = plan_of(
        wish(*wanted.leaving, newcomer=wanted.has_newcomer, ready=True),
        READY,
        wish(ready=True, gives_up=True),
    )

    assert told(membership, wanted, fails) == [Next.GET_READY, Next.STAY]
    assert not membership.under_way


def test_a_newcomer_that_goes_away_is_forgotten() -> None:
    membership = Membership()

    assert told(membership, JOINS, plan_of(READY, READY, READY)) == [Next.GET_READY, Next.STAY]
    assert not membership.under_way


def test_a_rank_that_wants_to_leave_waits_for_the_newcomer_to_be_in() -> None:
    membership = Membership()
    both = plan_of(wish(1, newcomer=True, ready=True), READY, READY)

    assert told(membership, JOINS, both) == [Next.GET_READY, Next.CHANGE]


def test_a_newcomer_waits_for_a_rank_to_have_left() -> None:
    membership = Membership()
    both = plan_of(wish(1, newcomer=True, ready=True), READY, READY)

    assert told(membership, LEAVES, both) == [Next.GET_READY, Next.CHANGE]
    assert membership.under_way == Change(leaving=(1,))


def test_after_a_change_that_failed_the_next_is_another_attempt() -> None:
    membership = Membership()
    told(membership, LEAVES)
    membership.stay()

    assert told(membership, JOINS) == [Next.GET_READY]
    assert membership.attempt == 2

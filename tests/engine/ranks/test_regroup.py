"""Those who stay know their new places, and all part between the same two steps."""

import pytest

from baton.engine.config import RanksConfig
from baton.engine.ranks.lockstep import Departures, Plan, Wish, as_numbers, as_plan
from baton.engine.ranks.regroup import successor_of

RANKS = 3


def plan_of(*wishes: Wish) -> Plan:
    return as_plan([max(numbers) for numbers in zip(*map(as_numbers, wishes), strict=True)])


def wish(leaving: int | None = None, *, prepared: bool = False) -> Wish:
    flags = tuple(rank == leaving for rank in range(RANKS))
    return Wish(prompt_tokens=0, decode_rows=1, leaving=flags, is_prepared=prepared)


def test_ranks_part_once_all_are_prepared() -> None:
    departures = Departures()
    told = plan_of(wish(1), wish(), wish())
    half_prepared = plan_of(wish(1, prepared=True), wish(prepared=True), wish())
    all_prepared = plan_of(wish(1, prepared=True), wish(prepared=True), wish(prepared=True))

    assert [departures.on_plan(plan) for plan in (told, half_prepared, all_prepared)] == [False, False, True]


def test_another_departure_starts_the_preparation_anew() -> None:
    departures = Departures()
    prepared = wish(prepared=True)
    departures.on_plan(plan_of(wish(1), wish(), wish()))

    assert not departures.on_plan(plan_of(wish(1, prepared=True), wish(2, prepared=True), prepared))
    assert departures.known == (1, 2)


def test_without_departures_nobody_parts() -> None:
    departures = Departures()

    assert not any(departures.on_plan(plan_of(wish(prepared=True))) for _ in range(3))


@pytest.mark.parametrize(("rank", "place"), [(0, None), (1, 0), (2, 1)])
def test_those_who_stay_move_up(rank: int, place: int | None) -> None:
    ranks = RanksConfig(rank=rank, size=RANKS, port=1, redundant_experts=1)

    successor = successor_of(ranks, (0,), 8)

    assert (successor and successor.rank) == place
    assert successor is None or (successor.size, successor.redundant_experts) == (2, 2)

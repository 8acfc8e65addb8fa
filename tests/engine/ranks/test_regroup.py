"""Those who stay know their new places, whoever leaves and whoever comes."""

import pytest

from baton.engine.config import RanksConfig
from baton.engine.ranks.membership import Change
from baton.engine.ranks.moe import num_slots, owned_slots
from baton.engine.ranks.regroup import successor_of

RANKS = 3
EXPERTS = 8


@pytest.mark.parametrize(("rank", "place"), [(0, None), (1, 0), (2, 1)])
def test_those_who_stay_move_up(rank: int, place: int | None) -> None:
    ranks = RanksConfig(rank=rank, size=RANKS, port=1, redundant_experts=1)

    successor = successor_of(ranks, Change(leaving=(0,)))

    assert (successor and successor.rank) == place
    assert successor is None or (successor.size, num_slots(successor, EXPERTS) - EXPERTS) == (2, 2)


def test_those_who_let_a_newcomer_in_stay_where_they_are() -> None:
    ranks = RanksConfig(rank=1, size=2, port=1)

    successor = successor_of(ranks, Change(joins=True))

    assert successor is not None
    assert (successor.rank, successor.size) == (1, 3)


def test_slots_come_and_go_with_the_ranks_that_share_them_out() -> None:
    two = RanksConfig(rank=0, size=2, port=1)
    three = successor_of(two, Change(joins=True))
    assert three is not None
    again_two = successor_of(three, Change(leaving=(2,)))
    assert again_two is not None

    assert [num_slots(ranks, EXPERTS) for ranks in (two, three, again_two)] == [8, 9, 8]
    assert owned_slots(three, EXPERTS) == range(3)

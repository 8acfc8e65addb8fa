"""Experts move between ranks while they serve: the load evens out and no token changes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from baton.engine.models import load_model
from baton.engine.ranks.rebalance import Move, moves_between
from support.checkpoints import make_deepseek_v3, make_qwen3_moe
from support.driver import Driver
from support.ranked_models import greedy_tokens_while_moving, prompts_of
from support.ranks import run_ranks

TOKENS = 24


@pytest.mark.parametrize(("make", "ranks"), [(make_deepseek_v3, 4), (make_qwen3_moe, 2)])
def test_experts_move_and_no_token_changes(make: Callable[[Path], Path], ranks: int, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    driver = Driver(load_model(folder))

    results = run_ranks(ranks, greedy_tokens_while_moving, folder, TOKENS, 4)

    for rank, (tokens, tables, evenness) in enumerate(results):
        assert tokens == driver.generate([driver.sequence(p) for p in prompts_of(rank)], TOKENS)
        assert tables == results[0][1]
        assert evenness is not None
    assert any(table != tuple(slot % 8 for slot in range(12)) for table in results[0][1])


def test_a_replica_on_the_same_rank_is_copied_from_there() -> None:
    old, new = [0, 1, 2, 1], [0, 2, 1, 1]

    assert moves_between(old, new, 2) == [Move(source=2, target=1), Move(source=3, target=2)]


def test_what_stays_is_not_moved() -> None:
    assert moves_between([0, 1], [0, 1], 2) == []

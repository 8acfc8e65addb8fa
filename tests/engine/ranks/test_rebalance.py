"""Experts move between ranks while they serve: the load evens out and no token changes."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from baton.engine.balance.packing import Cluster
from baton.engine.config import RanksConfig
from baton.engine.models import load_model
from baton.engine.ranks.rebalance import Move, Rebalancer, ReplicatedLayer, moves_between
from baton.kernels.moe.collectives import Collectives
from baton.kernels.moe.replicas import ReplicaTable
from support.checkpoints import make_qwen3_moe
from support.driver import Driver
from support.ranked_models import greedy_tokens_while_moving, several_each
from support.ranks import run_ranks
from support.skewed import make_skewed

TOKENS = 96
INTERVAL = 30
EVEN = 1 / 1.15
"""Mean over maximum when the busiest rank has 1.15 times the mean."""


def test_a_load_skewed_eight_to_one_is_evened_out_and_no_token_changes(tmp_path: Path) -> None:
    folder = make_skewed(tmp_path / "model")
    driver = Driver(load_model(folder), num_blocks=256)

    results = run_ranks(4, greedy_tokens_while_moving, folder, TOKENS, 7, INTERVAL)

    for rank, result in enumerate(results):
        prompts = [driver.sequence(p) for p in several_each(rank)]
        assert result.tokens == driver.generate(prompts, TOKENS)
        assert result.tables == results[0].tables
        assert result.found == results[0].found
    first, *_, last = results[0].found
    assert first.measured < 0.5
    assert first.planned >= EVEN
    assert last.measured >= EVEN


def test_experts_of_a_model_without_groups_move_and_no_token_changes(tmp_path: Path) -> None:
    folder = make_qwen3_moe(tmp_path / "model")
    driver = Driver(load_model(folder))

    results = run_ranks(2, greedy_tokens_while_moving, folder, 16, 4, 5)

    for rank, result in enumerate(results):
        assert result.tokens == driver.generate([driver.sequence(p) for p in several_each(rank)], 16)
    assert any(table != tuple(slot % 8 for slot in range(12)) for table in results[0].tables)


def test_a_dummy_that_raises_leaves_the_load_counted() -> None:
    table = ReplicaTable(3, 4, offset=0, device=torch.device("cpu"))
    cluster, config = Cluster(slots=4, ranks=1), RanksConfig(rank=0, size=1, port=1)
    layer, nobody = cast("ReplicatedLayer", SimpleNamespace(replicas=table)), cast("Collectives", None)
    rebalancer = Rebalancer([layer], nobody, cluster, config)

    def run_dummy() -> None:
        with rebalancer.uncounted():
            assert not table.is_counting
            raise RuntimeError("the dummy broke")

    with pytest.raises(RuntimeError, match="the dummy broke"):
        run_dummy()
    assert table.is_counting


def test_a_replica_on_the_same_rank_is_copied_from_there() -> None:
    old, new = [0, 1, 2, 1], [0, 2, 1, 1]

    assert moves_between(old, new, 2) == [Move(source=2, target=1), Move(source=3, target=2)]


def test_what_stays_is_not_moved() -> None:
    assert moves_between([0, 1], [0, 1], 2) == []

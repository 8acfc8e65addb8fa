"""A model spread over ranks generates one rank's tokens, and each rank reads only its experts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baton.engine.models import load_model
from support.checkpoint_files import read_tensors
from support.checkpoints import make_deepseek_v3, make_qwen3_moe
from support.driver import Driver
from support.ranked_models import PAIRINGS, greedy_tokens_of_each, prompts_of, several_each
from support.ranks import run_ranks

TOKENS = 8


MAKERS: list[Callable[[Path], Path]] = [make_deepseek_v3, make_qwen3_moe]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_greedy_tokens_equal_those_of_one_rank(ranks: int, tmp_path: Path) -> None:
    folders = [make(tmp_path / make.__name__) for make in MAKERS]

    results = run_ranks(ranks, greedy_tokens_of_each, folders, TOKENS)

    for index, folder in enumerate(folders):
        driver = Driver(load_model(folder))
        for rank, result in enumerate(results):
            check(result[index], driver, rank)
            assert result[index]["bytes"] == bytes_of_share(folder, rank, ranks)


def check(result: dict[str, Any], driver: Driver, rank: int) -> None:
    alone = driver.generate([driver.sequence(p) for p in prompts_of(rank)], TOKENS)
    assert {name: result[name] for name in PAIRINGS} == dict.fromkeys(PAIRINGS, alone)
    alone = driver.generate([driver.sequence(p) for p in several_each(rank)], TOKENS)
    halves = [f"{name} in halves" for name in PAIRINGS]
    assert {name: result[name] for name in halves} == dict.fromkeys(halves, alone)
    assert result["silent"] == (int(rank == 0), driver.model.config.vocab_size)


def bytes_of_share(folder: Path, rank: int, ranks: int) -> int:
    share = 8 // ranks
    others = [f".experts.{e}." for e in range(8) if e // share != rank]
    tensors = read_tensors(folder)
    return sum(t.nbytes for name, t in tensors.items() if not any(other in name for other in others))

"""Decode steps of ranks are captured with their transfers, and replayed they give one rank's tokens."""

from pathlib import Path

from baton.engine.models import load_model
from support.checkpoints import make_deepseek_v3
from support.driver import Driver
from support.ranked_models import DECODE_ROWS, greedy_tokens_of_replayed_steps, prompts_of
from support.ranks import run_ranks

TOKENS = 5


def test_two_ranks(tmp_path: Path) -> None:
    folder = make_deepseek_v3(tmp_path / "model", seed=5, num_hidden_layers=2)

    results = run_ranks(2, greedy_tokens_of_replayed_steps, folder, "all_to_all", TOKENS)

    driver = Driver(load_model(folder))
    for rank, (tokens, captured) in enumerate(results):
        assert tokens == driver.generate([driver.sequence(p) for p in prompts_of(rank)], TOKENS)
        assert captured == [4, DECODE_ROWS]

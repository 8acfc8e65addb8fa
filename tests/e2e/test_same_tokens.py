"""Greedy tokens through proxy, prefill and decode equal transformers', for every architecture."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from baton.bench.fleet import running_fleet
from baton.bench.leaks import find_leaks
from baton.bench.stream import Outcome
from support.checkpoints import MAKERS
from support.fleets import CHECKSUMS, SMALL_POOL, ask_all
from support.oracle import load_oracle, oracle_greedy
from support.tokenizers import VOCABULARY

NEW_TOKENS = 16
LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 100, 127, 128, 129, 150, 192, 200, 250, 300, 333, 400, 450]


def draw_prompts() -> list[list[int]]:
    """Twenty prompts of mixed lengths, the lengths around block boundaries among them."""
    rng = random.Random(7)
    return [[rng.randrange(5, VOCABULARY) for _ in range(length)] for length in LENGTHS]


@pytest.mark.parametrize("architecture", MAKERS)
def test_twenty_requests_at_once_get_the_tokens_of_transformers(
    architecture: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, prompts = checkpoint(architecture), draw_prompts()
    oracle = load_oracle(folder)
    expected = [oracle_greedy(oracle, prompt, NEW_TOKENS) for prompt in prompts]

    with running_fleet(tmp_path / "log", "--model", str(folder), *CHECKSUMS, *SMALL_POOL) as fleet:
        answers = asyncio.run(ask_all(fleet.url, prompts, NEW_TOKENS))
        again = asyncio.run(ask_all(fleet.url, prompts, NEW_TOKENS))  # now from prefix caches, in part
        leaks = asyncio.run(find_leaks(fleet.url, fleet.workers, settle_s=10.0))

    assert [(answer.outcome, answer.detail) for answer in answers] == [(Outcome.WHOLE, "")] * len(prompts)
    assert [answer.token_ids for answer in answers] == expected
    assert [answer.token_ids for answer in again] == expected
    reports = [answer.baton for answer in answers if answer.baton is not None]
    assert len(reports) == len(prompts)
    assert [report.prefill_worker for report in reports] == ["prefill-0"] * len(prompts)
    assert [report.decode_worker for report in reports] == ["decode-0"] * len(prompts)
    assert not any(report.recomputed for report in reports)
    # The last prompt token is recomputed on decode, so a prompt of one token ships nothing.
    assert [bool(report.kv_bytes) for report in reports] == [length > 1 for length in LENGTHS]
    assert leaks == []

"""Greedy tokens through fleets whose halves have different numbers of ranks equal transformers'."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from baton.bench.fleet import running_fleet
from baton.bench.leaks import find_leaks
from baton.bench.stream import Outcome
from baton.engine.config import MoeBackendName
from support.fleets import CHECKSUMS, SMALL_POOL, ask_all
from support.oracle import load_oracle, oracle_greedy
from support.tokenizers import VOCABULARY

NEW_TOKENS = 12
LENGTHS = [2, 17, 64, 65, 100, 150, 200, 300]
GATHER, TO_ALL = MoeBackendName.ALLGATHER_REDUCESCATTER, MoeBackendName.ALL_TO_ALL


def draw_prompts() -> list[list[int]]:
    rng = random.Random(11)
    return [[rng.randrange(5, VOCABULARY) for _ in range(length)] for length in LENGTHS]


@pytest.mark.parametrize(
    ("architecture", "backend", "ranks"),
    [
        ("deepseek_v3", TO_ALL, (1, 2)),
        ("deepseek_v3", GATHER, (2, 1)),
        ("qwen3_moe", TO_ALL, (2, 1)),
        ("qwen3_moe", GATHER, (1, 2)),
    ],
)
def test_tokens_do_not_depend_on_how_many_ranks_prefill_and_decode(
    architecture: str,
    backend: MoeBackendName,
    ranks: tuple[int, int],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder, prompts = checkpoint(architecture), draw_prompts()
    oracle = load_oracle(folder)
    expected = [oracle_greedy(oracle, prompt, NEW_TOKENS) for prompt in prompts]
    prefill, decode = ranks
    settings = ("--set", f"ranks.moe_backend={backend.value}", *CHECKSUMS, *SMALL_POOL)
    sizes = ("--prefill-ranks", str(prefill), "--decode-ranks", str(decode))
    flags = ("--model", str(folder), *sizes, *settings)

    with running_fleet(tmp_path / "log", *flags, start_timeout_s=180.0) as fleet:
        answers = asyncio.run(ask_all(fleet.url, prompts, NEW_TOKENS))
        leaks = asyncio.run(find_leaks(fleet.url, fleet.workers, settle_s=10.0))

    assert [(answer.outcome, answer.detail) for answer in answers] == [(Outcome.WHOLE, "")] * len(prompts)
    assert [answer.token_ids for answer in answers] == expected
    reports = [answer.baton for answer in answers if answer.baton is not None]
    assert {report.prefill_worker for report in reports} == {f"prefill-{rank}" for rank in range(prefill)}
    assert {report.decode_worker for report in reports} == {f"decode-{rank}" for rank in range(decode)}
    assert not any(report.recomputed for report in reports)
    assert leaks == []

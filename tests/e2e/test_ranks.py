"""Greedy tokens through fleets whose halves have different numbers of ranks equal transformers'."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from baton.bench.fleet import RunningFleet, running_fleet
from baton.bench.leaks import find_leaks
from baton.bench.stream import Answer, Outcome
from baton.cli.fleet_control import Action, Reply, Request, ask_fleet
from baton.engine.config import MoeBackendName
from support.fleets import CHECKSUMS, SMALL_POOL, ask_all
from support.oracle import load_oracle, oracle_greedy
from support.tokenizers import VOCABULARY

NEW_TOKENS = 12
LENGTHS = [2, 17, 64, 65, 100, 150, 200, 300]
EVENLY = ("--proxy-set", "policy=round_robin")  # others may keep to a quick worker
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
    flags = ("--model", str(folder), *EVENLY, *sizes, *settings)

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


LONG_ANSWER = 32


async def change_under_load(
    fleet: RunningFleet, action: Action, worker: str, prompts: list[list[int]]
) -> tuple[Reply, list[Answer]]:
    """Ask for answers again and again until the ranks have changed, and once more; return all of them."""
    port = urlsplit(fleet.url).port
    assert port is not None
    answers: list[Answer] = []
    async with asyncio.TaskGroup() as tasks:
        change = tasks.create_task(asyncio.to_thread(ask_fleet, port, Request(action=action, worker=worker)))
        while not change.done():
            answers += await ask_all(fleet.url, prompts, LONG_ANSWER)
    return change.result(), answers


def decoded_by(answers: list[Answer]) -> set[str]:
    return {str(answer.baton.decode_worker) for answer in answers if answer.baton is not None}


async def until_decoded_by(fleet: RunningFleet, workers: set[str], prompts: list[list[int]]) -> list[Answer]:
    """Ask until all of these have decoded answers."""
    answers: list[Answer] = []
    while not decoded_by(answers) >= workers:
        answers += await ask_all(fleet.url, prompts, LONG_ANSWER)
    return answers


async def test_a_fleet_gains_a_rank_and_loses_its_first_under_streams(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, prompts = checkpoint("deepseek_v3"), draw_prompts()[:5]
    oracle = load_oracle(folder)
    expected = [oracle_greedy(oracle, prompt, LONG_ANSWER) for prompt in prompts]
    flags = ("--model", str(folder), *EVENLY, "--decode-ranks", "2", *CHECKSUMS, *SMALL_POOL)

    with running_fleet(tmp_path / "log", *flags, start_timeout_s=180.0) as fleet:
        added, answers = await change_under_load(fleet, Action.ADD, "decode-0", prompts)
        answers += await until_decoded_by(fleet, {"decode-0", "decode-1", "decode-2"}, prompts)
        removed, more = await change_under_load(fleet, Action.REMOVE, "decode-0", prompts)
        afterwards = await until_decoded_by(fleet, {"decode-1", "decode-2"}, prompts)
        answers += more + afterwards
        leaks = await find_leaks(
            fleet.url, {n: url for n, url in fleet.workers.items() if n != "decode-0"}, settle_s=10.0
        )
        starts = {name: fleet.count("started", name) for name in fleet.workers}

    assert (added.is_done, removed.is_done) == (True, True), (added.text, removed.text)
    assert [
        (answer.outcome, answer.detail) for answer in answers if answer.outcome is not Outcome.WHOLE
    ] == []
    rounds = len(answers) // len(prompts)
    assert [answer.token_ids for answer in answers] == expected * rounds
    assert decoded_by(afterwards) == {"decode-1", "decode-2"}
    assert starts == {"prefill-0": 1, "decode-0": 1, "decode-1": 1, "decode-2": 1}
    assert leaks == []

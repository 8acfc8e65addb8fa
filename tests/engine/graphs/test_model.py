"""Replayed steps give the tokens of eager ones, and a rehearsal finds nothing that a graph could not hold."""

import logging
from pathlib import Path

import pytest
import torch

from baton.engine.batch import DecodeBatch
from baton.engine.graphs.model import GraphedModel
from baton.engine.graphs.rehearsal import GraphRuleError, Rehearsal
from baton.engine.models import Model, load_model
from baton.engine.models.decoder import Decoder
from baton.engine.models.loading import load
from support.checkpoints import MAKERS
from support.driver import Driver

PROMPTS = [[7, 11, 200, 31, 5, 77, 6], list(range(40, 51)), [9, 8], list(range(60, 90))]
TOKENS = 10
MODELS = ["deepseek_v2", "deepseek_v3", "qwen3_moe"]


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("model"), seed=5)


def paged(folder: Path) -> Decoder:
    return load(folder, device="cpu", dtype=None, on_progress=None, paged=True)


def graphed(folder: Path, *, batch_sizes: list[int], prompt_sizes: list[int]) -> Driver:
    """A driver whose model replays steps over the driver's own pool."""
    model = paged(folder)
    driver = Driver(model)
    replaying = GraphedModel(model, driver.pool)
    replaying.capture(
        Rehearsal(),
        batch_sizes=batch_sizes,
        max_blocks=12,
        prompt_sizes=prompt_sizes,
        on_captured=lambda done, total: None,
    )
    driver.model = replaying
    return driver


def generate(driver: Driver, count: int, bucket: int | None) -> list[list[int]]:
    return driver.generate(
        [driver.sequence(prompt) for prompt in PROMPTS[:count]], TOKENS, chunk=9, bucket=bucket
    )


@pytest.mark.parametrize(("count", "bucket"), [(4, 4), (3, 4), (1, 2), (2, 2)])
def test_replayed_steps_give_the_tokens_of_eager_ones(folder: Path, count: int, bucket: int) -> None:
    expected = generate(Driver(load_model(folder)), count, None)

    assert generate(graphed(folder, batch_sizes=[2, 4], prompt_sizes=[16, 40]), count, bucket) == expected


def test_graphs_take_turns_and_see_no_other_s_rows(folder: Path) -> None:
    driver = graphed(folder, batch_sizes=[2, 4], prompt_sizes=[16])
    expected = generate(Driver(load_model(folder)), 4, None)

    first = generate(driver, 4, 4)
    second = generate(driver, 2, 2)
    third = generate(driver, 3, 4)

    assert (first, second, third) == (expected, expected[:2], expected[:3])


def test_a_size_that_is_not_captured_runs_eagerly_and_says_so_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = graphed(folder, batch_sizes=[2], prompt_sizes=[])
    expected = generate(Driver(load_model(folder)), 3, None)

    with caplog.at_level(logging.WARNING):
        assert generate(driver, 3, 3) == expected

    [line] = caplog.messages
    assert line == (
        "decode batches of 3 rows are not captured and run eagerly, which is slower; captured: [2]"
    )


def test_progress_is_told_after_each_size(folder: Path) -> None:
    model = paged(folder)
    driver = Driver(model)
    captured: list[tuple[int, int]] = []
    replaying = GraphedModel(model, driver.pool)

    replaying.capture(
        Rehearsal(),
        batch_sizes=[1, 2],
        max_blocks=4,
        prompt_sizes=[8, 16],
        on_captured=lambda done, total: captured.append((done, total)),
    )

    assert captured == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert replaying.captured_batch_sizes == [1, 2]


def test_the_step_that_a_cpu_runs_breaks_the_rules(folder: Path) -> None:
    model = load_model(folder)
    driver = Driver(model)
    one, slot = torch.tensor([1]), torch.tensor([driver.block_tokens])
    batch = DecodeBatch(one, one - 1, slot, one.int().unsqueeze(1), one.int(), live=1)

    with pytest.raises(GraphRuleError):
        Rehearsal().capture(lambda: logits_of(model, batch, driver))


def logits_of(model: Model, batch: DecodeBatch, driver: Driver) -> None:
    model.decode(batch, driver.pool)


def test_a_dead_row_s_logits_are_zero_and_its_kv_goes_to_the_null_block(folder: Path) -> None:
    driver = graphed(folder, batch_sizes=[4], prompt_sizes=[])
    sequence = driver.sequence(PROMPTS[0])
    driver.prefill([(sequence, len(sequence.tokens))])
    before = driver.pool[1:].clone()
    zeros = torch.zeros(4, dtype=torch.int64)

    logits = driver.model.decode(
        DecodeBatch(zeros, zeros, zeros, torch.zeros(4, 2, dtype=torch.int32), zeros.int(), live=0),
        driver.pool,
    )

    assert not logits.any()
    assert torch.equal(driver.pool[1:], before)

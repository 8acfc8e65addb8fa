"""Every architecture computes what transformers computes, however prompts are packed, cut and shared."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baton.engine.models import Model, load_model
from baton.kernels.by_device import references
from support.checkpoint_files import Storage
from support.checkpoints import MAKERS
from support.driver import Driver
from support.oracle import load_oracle, oracle_greedy, oracle_logits

GREEDY_TOKENS = 64
LENGTHS = [3, 17, 8, 41, 1, 300]  # the last decodes in a group of its own
LOGIT_TOLERANCE = 1e-4

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v2 grouped": ("deepseek_v2", {}),
    "deepseek_v2 greedy, no q_lora": (
        "deepseek_v2",
        {
            "topk_method": "greedy",
            "q_lora_rank": None,
            "n_group": None,
            "topk_group": None,
            "rope_scaling": None,
        },
    ),
    "deepseek_v3": ("deepseek_v3", {"mtp": True, "shards": 3}),
    "deepseek_v3 no q_lora, new rope spelling": (
        "deepseek_v3",
        {"q_lora_rank": None, "new_rope_spelling": True},
    ),
    "deepseek_v3 bf16": ("deepseek_v3", {"storage": Storage.BF16}),
    "deepseek_v3 fp8": (
        "deepseek_v3",
        {"storage": Storage.FP8, "hidden_size": 144, "moe_intermediate_size": 136},
    ),
    "kimi_k2": ("kimi_k2", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe dense layers, plain weights": ("qwen3_moe", {"mlp_only_layers": [1], "norm_topk_prob": False}),
}


@dataclass
class Case:
    """A loaded model and what the oracle says."""

    model: Model
    prompts: list[list[int]]
    logits: list[Tensor]
    greedy: list[list[int]]

    def driver(self) -> Driver:
        return Driver(self.model, block_tokens=8, num_blocks=256)


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    model_type, options = VARIANTS[request.param]
    folder: Path = MAKERS[model_type](tmp_path_factory.mktemp("model"), seed=11, **options)
    oracle = load_oracle(folder)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(5, 384, (length,), generator=generator).tolist() for length in LENGTHS]
    model = load_model(folder)
    alone = Driver(model)
    guesses = [alone.generate([alone.sequence(prompt)], GREEDY_TOKENS)[0] for prompt in prompts]
    return Case(
        model=model,
        prompts=prompts,
        logits=[oracle_logits(oracle, prompt) for prompt in prompts],
        greedy=[
            oracle_greedy(oracle, prompt, GREEDY_TOKENS, guess=guess)
            for prompt, guess in zip(prompts, guesses, strict=True)
        ],
    )


@pytest.fixture(autouse=True, params=["compiled", "in torch"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Operations as this machine has them, and as one without a compiler would."""
    with references() if request.param == "in torch" else contextlib.nullcontext():
        yield


def test_the_oracle_says_something_that_a_wrong_model_would_not(case: Case) -> None:
    assert len({tuple(tokens) for tokens in case.greedy}) == len(LENGTHS)
    assert len({token for tokens in case.greedy for token in tokens}) > 40


def test_prefill_logits_of_prompts_packed_together(case: Case) -> None:
    driver = case.driver()

    logits = driver.prefill([(driver.sequence(prompt), len(prompt)) for prompt in case.prompts])

    torch.testing.assert_close(logits, torch.stack(case.logits), atol=LOGIT_TOLERANCE, rtol=0)


def test_greedy_tokens_of_prompts_of_mixed_lengths(case: Case) -> None:
    driver = case.driver()

    assert driver.generate([driver.sequence(prompt) for prompt in case.prompts], GREEDY_TOKENS) == case.greedy


@pytest.mark.parametrize("chunk", [1, 7, 8, 33])
def test_logits_after_prompts_cut_into_chunks(case: Case, chunk: int) -> None:
    driver = case.driver()
    sequences = [driver.sequence(prompt) for prompt in case.prompts]
    last: dict[int, Tensor] = {}
    while pending := [i for i, each in enumerate(sequences) if each.computed < len(each.tokens)]:
        chunks = [
            (sequences[i], min(chunk, len(sequences[i].tokens) - sequences[i].computed)) for i in pending
        ]
        last |= dict(zip(pending, driver.prefill(chunks), strict=True))

    actual = torch.stack([last[i] for i in range(len(sequences))])

    torch.testing.assert_close(actual, torch.stack(case.logits), atol=LOGIT_TOLERANCE, rtol=0)


def test_greedy_tokens_after_chunks_with_decode_padded_to_a_bucket(case: Case) -> None:
    driver = case.driver()
    sequences = [driver.sequence(prompt) for prompt in case.prompts]

    assert driver.generate(sequences, GREEDY_TOKENS, chunk=13, bucket=8) == case.greedy


def test_greedy_tokens_of_sequences_that_share_cached_blocks(case: Case) -> None:
    driver = case.driver()
    prompt, expected = case.prompts[-1], case.greedy[-1]
    first = driver.sequence(prompt)
    driver.prefill([(first, len(prompt))])
    other = case.prompts[3]
    sharing = [
        driver.sequence(prompt, shares=first, blocks=12),
        driver.sequence(prompt, shares=first, blocks=3),
        driver.sequence(other),
    ]

    assert driver.generate(sharing, GREEDY_TOKENS, chunk=20) == [expected, expected, case.greedy[3]]


def test_decode_may_recompute_the_last_prompt_token(case: Case) -> None:
    driver = case.driver()
    sequences = [driver.sequence(prompt) for prompt in case.prompts]
    driver.prefill([(sequence, len(sequence.tokens)) for sequence in sequences])

    logits = driver.decode(sequences, bucket=16)

    torch.testing.assert_close(logits, torch.stack(case.logits), atol=LOGIT_TOLERANCE, rtol=0)


def test_dead_rows_get_zeros_and_change_nothing(case: Case) -> None:
    logits = []
    for bucket in (1, 4):
        driver = case.driver()
        sequence = driver.sequence(case.prompts[1])
        driver.prefill([(sequence, len(sequence.tokens))])
        logits.append(driver.decode([sequence], bucket=bucket))

    torch.testing.assert_close(logits[0], logits[1])


def test_a_step_without_wanted_logits_still_writes_the_cache(case: Case) -> None:
    driver = case.driver()
    sequence = driver.sequence(case.prompts[3])
    driver.wants_logits = False
    assert driver.prefill([(sequence, 20)]).shape == (0, case.model.config.vocab_size)
    driver.wants_logits = True

    logits = driver.prefill([(sequence, 21)])

    torch.testing.assert_close(logits[0], case.logits[3], atol=LOGIT_TOLERANCE, rtol=0)

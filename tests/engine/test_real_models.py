"""Chunked, cached, forked, preempted or handed over: a real model's tokens stay those of the oracle."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from transformers import PreTrainedModel

from baton.engine.models import Model, load_model
from support.checkpoints import make_deepseek_v2, make_deepseek_v3, make_kimi_k2, make_qwen3_moe
from support.fake_transfer import FakeNetwork
from support.fake_worker import FakeWorker, hand_over
from support.oracle import load_oracle, oracle_greedy

MAKERS: list[Callable[..., Path]] = [make_deepseek_v2, make_deepseek_v3, make_kimi_k2, make_qwen3_moe]
LENGTHS = (1, 7, 8, 33, 70)
NEW_TOKENS = 20


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [(i * i + seed * 17 + 11) % 200 + 3 for i in range(length)]


class Loaded(NamedTuple):
    model: Model
    oracle: PreTrainedModel

    def worker(self, kind: str = "decode", **options: object) -> FakeWorker:
        settings = {"blocks": 80, "block_tokens": 8, "max_batched_tokens": 24, **options}
        return FakeWorker(kind, model=self.model, **settings)  # type: ignore[arg-type]

    def expected(self, prompt: list[int], count: int = NEW_TOKENS) -> list[int]:
        return oracle_greedy(self.oracle, prompt, count)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__.removeprefix("make_"))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = request.param(tmp_path_factory.mktemp("model") / "tiny", seed=3)
    return Loaded(load_model(folder), load_oracle(folder))


@pytest.mark.parametrize("run_ahead", [False, True])
def test_mixed_lengths_in_one_batch_across_chunk_borders(loaded: Loaded, run_ahead: bool) -> None:
    worker = loaded.worker(run_ahead=run_ahead)
    for length in LENGTHS:
        worker.submit(f"r{length}", prompt_of(length), NEW_TOKENS)
    worker.run()

    for length in LENGTHS:
        assert worker.tokens_of(f"r{length}") == loaded.expected(prompt_of(length))


def test_after_prefix_hits_whole_and_partial(loaded: Loaded) -> None:
    worker = loaded.worker()
    prompts = [prompt_of(40), prompt_of(40), [*prompt_of(24), *prompt_of(9, seed=5)]]
    for index, prompt in enumerate(prompts):
        worker.submit(f"r{index}", prompt, NEW_TOKENS, n=2)
        worker.run()

    assert [worker.first(f"r{index}").cached_tokens for index in range(3)] == [0, 39, 24]
    for index, prompt in enumerate(prompts):
        for choice in (0, 1):
            assert worker.tokens_of(f"r{index}", choice) == loaded.expected(prompt)


def test_after_preemption(loaded: Loaded) -> None:
    worker = loaded.worker(blocks=9, prefix_cache=False)
    for seed in range(3):
        worker.submit(f"r{seed}", prompt_of(15, seed), NEW_TOKENS)
    worker.run()

    assert worker.scheduler.counters.preemptions > 0
    for seed in range(3):
        assert worker.tokens_of(f"r{seed}") == loaded.expected(prompt_of(15, seed))


def test_over_a_hand_over(loaded: Loaded) -> None:
    network = FakeNetwork()
    prefill, decode = loaded.worker("prefill", network=network), loaded.worker("decode", network=network)
    for length in LENGTHS:
        decode.submit(
            f"r{length}",
            prompt_of(length),
            NEW_TOKENS,
            kv_transfer=hand_over(prefill, f"r{length}", prompt_of(length)),
        )
    decode.turn()
    decode.service.finish_all()
    decode.run()

    for length in LENGTHS:
        assert decode.tokens_of(f"r{length}") == loaded.expected(prompt_of(length))
        assert not decode.first(f"r{length}").recomputed

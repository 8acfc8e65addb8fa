"""A real model's greedy tokens stay those of the oracle, guessed ahead or not."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from baton.engine.messages import SamplingParams
from baton.engine.models.decoder import Decoder
from baton.engine.models.loading import load
from baton.tools.demo.generator import exam, prompt_tokens
from baton.tools.demo.tokenizer import EOS_ID, encode, encode_dialogue
from support.checkpoints import make_deepseek_v3
from support.fake_transfer import FakeNetwork
from support.fake_worker import FakeWorker, hand_over
from support.oracle import load_oracle, oracle_greedy

LENGTHS = (1, 7, 8, 33, 70)
NEW_TOKENS = 20
DEMO = Path(__file__).parents[3] / "models" / "demo"


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [(i * i + seed * 17 + 11) % 200 + 3 for i in range(length)]


def worker_of(model: Decoder, tokens: int, kind: str = "decode", **options: object) -> FakeWorker:
    settings = {"blocks": 80, "block_tokens": 8, "max_batched_tokens": 24, **options}
    return FakeWorker(kind, model=model, layer=model.draft, draft_tokens=tokens, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_deepseek_v3(tmp_path_factory.mktemp("model") / "tiny", seed=3, mtp=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return load(folder, device="cpu", dtype=None, on_progress=None, draft=True)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[int, list[int]]:
    oracle = load_oracle(folder)
    return {length: oracle_greedy(oracle, prompt_of(length), NEW_TOKENS) for length in LENGTHS}


@pytest.mark.parametrize("tokens", [1, 3])
def test_mixed_lengths_in_one_batch(model: Decoder, expected: dict[int, list[int]], tokens: int) -> None:
    worker = worker_of(model, tokens)
    for length in LENGTHS:
        worker.submit(f"r{length}", prompt_of(length), NEW_TOKENS)
    worker.run()

    assert worker.scheduler.counters.draft_tokens > 0
    for length in LENGTHS:
        assert worker.tokens_of(f"r{length}") == expected[length]


def test_steps_of_fixed_shapes(folder: Path, expected: dict[int, list[int]]) -> None:
    model = load(folder, device="cpu", dtype=None, on_progress=None, draft=True, paged=True)
    worker = worker_of(model, 2)
    for length in LENGTHS:
        worker.submit(f"r{length}", prompt_of(length), NEW_TOKENS)
    worker.run()

    for length in LENGTHS:
        assert worker.tokens_of(f"r{length}") == expected[length]


def test_preempted_and_recomputed(model: Decoder, expected: dict[int, list[int]]) -> None:
    worker = worker_of(model, 2, blocks=12, prefix_cache=False)
    for length in LENGTHS[:4]:
        worker.submit(f"r{length}", prompt_of(length), NEW_TOKENS)
    worker.run()

    assert worker.scheduler.counters.preemptions > 0
    for length in LENGTHS[:4]:
        assert worker.tokens_of(f"r{length}") == expected[length]


def test_over_a_hand_over_and_with_prefix_hits(model: Decoder, expected: dict[int, list[int]]) -> None:
    network = FakeNetwork()
    prefill = worker_of(model, 2, "prefill", network=network)
    decode = worker_of(model, 2, network=network)
    for name in ("first", "again"):
        for length in LENGTHS:
            offer = hand_over(prefill, f"{name}{length}", prompt_of(length))
            decode.submit(f"{name}{length}", prompt_of(length), NEW_TOKENS, kv_transfer=offer)
        decode.turn()
        decode.service.finish_all()
        decode.run()
        for length in LENGTHS:
            assert decode.tokens_of(f"{name}{length}") == expected[length]


def test_the_demo_models_layer_guesses_most_of_its_answers_and_changes_none() -> None:
    plain = load(DEMO, device="cpu", dtype=None, on_progress=None)
    drafting = load(DEMO, device="cpu", dtype=None, on_progress=None, draft=True)
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    dialogues = list(exam(5, 10, 50, 200, lambda text: len(encode(tokenizer, text))))
    sampling = SamplingParams(max_tokens=60, temperature=0.0, stop_token_ids=(EOS_ID,))
    workers = [
        FakeWorker(model=plain, block_tokens=64, max_batched_tokens=256),
        worker_of(drafting, 1, block_tokens=64, max_batched_tokens=256),
    ]
    for worker in workers:
        for number, dialogue in enumerate(dialogues):
            ids, _ = encode_dialogue(tokenizer, dialogue)
            start = prompt_tokens(dialogue, lambda text: len(encode(tokenizer, text)))
            worker.submit(f"r{number}", ids[:start], sampling=sampling)
        worker.run()

    for number in range(len(dialogues)):
        assert workers[1].tokens_of(f"r{number}") == workers[0].tokens_of(f"r{number}")
    counters = workers[1].scheduler.counters
    assert counters.accepted_tokens[0] > 0.8 * counters.draft_tokens > 0

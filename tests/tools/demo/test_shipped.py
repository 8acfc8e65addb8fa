"""The model in `models/demo` is small, whole, and answers what it says it answers.

Computed by transformers, so that a fault of our own engine cannot hide one of the model.
"""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from baton.tools.demo.evaluate import Answerer, examine, transformers_answerer
from baton.tools.demo.generator import Dialogue, Kind, Turn, exam, prompt_tokens
from baton.tools.demo.tokenizer import CHAT_TEMPLATE, encode

FOLDER = Path(__file__).parents[3] / "models" / "demo"
LARGEST_BYTES = 16_000_000
# An exam of 24 with 99% expected per question: five or more wrong would be chance once in 60,000 times.
FEWEST_RIGHT = 20


@pytest.fixture(scope="module")
def answer() -> Answerer:
    torch.set_num_threads(1)
    return transformers_answerer(FOLDER, torch.float32)


def test_it_is_small_enough_to_commit() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= LARGEST_BYTES


def test_its_config_is_deepseek_v3s() -> None:
    config = json.loads((FOLDER / "config.json").read_text())

    assert config["architectures"] == ["DeepseekV3ForCausalLM"]
    assert config["n_routed_experts"] >= 8
    assert config["num_experts_per_tok"] == 2
    assert config["n_shared_experts"] == 1
    assert config["num_nextn_predict_layers"] == 1
    assert config["max_position_embeddings"] >= 2048


def test_its_chat_template_is_the_one_it_was_trained_with() -> None:
    assert json.loads((FOLDER / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE


def test_it_recalls_a_code_that_stands_only_in_the_prompt(answer: Answerer) -> None:
    notes = (
        "The code of the red door is 4827. The weather was mild on Monday. The code of the blue box is 1935."
    )
    turn = Turn(
        kind=Kind.RECALL,
        user=f"{notes} What is the code of the red door?",
        answer="The code of the red door is 4827.",
    )

    assert answer(Dialogue(system=None, turns=(turn,))) == "The code of the red door is 4827."


def test_it_answers_fresh_questions_of_every_kind(answer: Answerer) -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))

    def measure(text: str) -> int:
        return len(encode(tokenizer, text))

    questions = [(prompt_tokens(d, measure), d) for d in exam(2026, 24, 50, 1000, measure)]
    right, asked = examine(questions, answer, concurrency=1)

    assert asked["all"] == 24
    assert right["all"] >= FEWEST_RIGHT

"""Any text survives, digits stand alone, and the chat template renders what the training saw."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from baton.tools.demo.generator import Dialogue, Kind, Measure, Turn, exam, prompt_tokens
from baton.tools.demo.tokenizer import (
    ASSISTANT_ID,
    BOS_ID,
    SPECIAL,
    encode,
    encode_dialogue,
    save_tokenizer,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def loaded(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, folder, max_tokens=2048)
    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_a_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text), skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["tür 4827", "12\n34", "日本語と😀", " The code of the red door is 4827. "])
def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer, text: str) -> None:
    pieces = [tokenizer.decode([token]) for token in encode(tokenizer, text)]

    assert [piece for piece in pieces if any(c.isascii() and c.isdigit() for c in piece)] == [
        c for c in text if c.isdigit()
    ]


def test_special_tokens_come_first_and_encode_to_themselves(tokenizer: Tokenizer) -> None:
    assert encode(tokenizer, "".join(SPECIAL)) == list(range(len(SPECIAL)))


def test_training_twice_gives_the_same_tokenizer() -> None:
    first, second = (train_tokenizer(seed=5, vocab_size=300, dialogues=10).to_str() for _ in range(2))

    assert first == second


def test_the_template_renders_what_the_training_saw(
    tokenizer: Tokenizer, loaded: PreTrainedTokenizerBase, measure: Measure
) -> None:
    for dialogue in exam(seed=7, count=30, shortest=50, longest=400, measure=measure):
        ids, is_answer = encode_dialogue(tokenizer, dialogue)
        start = prompt_tokens(dialogue, measure)
        prompt = loaded.apply_chat_template(
            dialogue.messages(), add_generation_prompt=True, return_dict=False
        )

        assert prompt == ids[:start]
        assert all(is_answer[start:])
        assert prompt[0] == BOS_ID
        assert prompt[-1] == ASSISTANT_ID


def test_plain_text_gets_one_beginning_mark(loaded: PreTrainedTokenizerBase) -> None:
    assert loaded("The code")["input_ids"][0] == BOS_ID
    assert loaded("The code")["input_ids"].count(BOS_ID) == 1


def test_text_parts_are_joined_and_trimmed(loaded: PreTrainedTokenizerBase) -> None:
    parts = [{"type": "text", "text": "Count from 1 "}, {"type": "text", "text": "to 3."}]

    rendered = loaded.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)

    assert rendered == "<|bos|><|user|>Count from 1 to 3."


def test_an_unknown_role_is_refused(loaded: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TemplateError, match="unknown role: critic"):
        loaded.apply_chat_template([{"role": "critic", "content": "no"}], tokenize=False)


def test_answers_and_their_ends_are_marked(tokenizer: Tokenizer) -> None:
    turns = tuple(Turn(kind=Kind.COUNT, user="Count from 1 to 3.", answer="1, 2, 3.") for _ in range(2))

    ids, is_answer = encode_dialogue(tokenizer, Dialogue(system="Be brief.", turns=turns))

    marked = [token for token, answer in zip(ids, is_answer, strict=True) if answer]
    assert tokenizer.decode(marked, skip_special_tokens=False) == "1, 2, 3.<|eos|>1, 2, 3.<|eos|>"

"""The tokenizer follows its folder: special tokens, beginning of sequence, stop ids, clear errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from baton.engine.text.checkpoint_files import TextSettings, TokenizerFilesError
from baton.engine.text.tokenizer import Tokenizer, load_tokenizer
from support.tokenizers import BOS_ID, EOS_ID, build_tokenizer, write_tokenizer

NO_SETTINGS = TextSettings(
    bos_token=None, eos_token=None, add_bos_token=None, eos_token_ids=(), chat_template=None
)
BYTE_LEVEL = Tokenizer(build_tokenizer(), NO_SETTINGS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def change(path: Path, **fields: Any) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **fields}))


def with_bos_in_post_processor(folder: Path) -> None:
    library = build_tokenizer()
    library.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", BOS_ID)]
    )
    library.save(str(folder / "tokenizer.json"))


def test_add_bos_token_puts_it_first_once(folder: Path) -> None:
    change(folder / "tokenizer_config.json", add_bos_token=True)
    tokenizer = load_tokenizer(folder)

    assert tokenizer.encode("red", add_special_tokens=True)[0] == BOS_ID
    assert tokenizer.encode("<|begin|>red", add_special_tokens=True).count(BOS_ID) == 1
    assert BOS_ID not in tokenizer.encode("red", add_special_tokens=False)


def test_add_bos_token_false_overrules_the_post_processor(folder: Path) -> None:
    with_bos_in_post_processor(folder)

    assert BOS_ID not in load_tokenizer(folder).encode("red", add_special_tokens=True)


def test_without_add_bos_token_the_post_processor_decides(folder: Path) -> None:
    with_bos_in_post_processor(folder)
    change(folder / "tokenizer_config.json", add_bos_token=None)

    assert load_tokenizer(folder).encode("red", add_special_tokens=True)[0] == BOS_ID


def test_stop_ids_come_from_generation_config_then_config_then_the_eos_token(folder: Path) -> None:
    assert load_tokenizer(folder).eos_token_ids == (EOS_ID,)
    change(folder / "config.json", eos_token_id=7)
    assert load_tokenizer(folder).eos_token_ids == (7,)
    change(folder / "generation_config.json", eos_token_id=[8, 9])
    assert load_tokenizer(folder).eos_token_ids == (8, 9)


def test_special_tokens_may_be_written_as_objects(folder: Path) -> None:
    change(folder / "tokenizer_config.json", bos_token={"content": "<|begin|>"}, add_bos_token=True)

    assert load_tokenizer(folder).encode("", add_special_tokens=True) == [BOS_ID]


def test_a_template_file_comes_before_the_one_in_the_config(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("from the file")

    assert load_tokenizer(folder).settings.chat_template == "from the file"


def test_of_several_templates_the_default_one_is_taken(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    change(folder / "tokenizer_config.json", chat_template=named)

    assert load_tokenizer(folder).settings.chat_template == "b"


def test_numbers_that_json_lacks_in_other_fields_do_no_harm(folder: Path) -> None:
    (folder / "config.json").write_text('{"eos_token_id": 5, "limits": [0.0, Infinity], "x": NaN}')

    assert load_tokenizer(folder).eos_token_ids == (5,)


def test_truncation_in_the_file_is_switched_off(folder: Path) -> None:
    library = build_tokenizer()
    library.enable_truncation(max_length=4)
    library.save(str(folder / "tokenizer.json"))

    assert len(load_tokenizer(folder).encode("x" * 400, add_special_tokens=False)) > 4


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer_config.json", "{"),
        ("generation_config.json", '{"eos_token_id": "two"}'),
        ("config.json", "[1]"),
    ],
)
def test_a_bad_file_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)

    with pytest.raises(TokenizerFilesError, match=name):
        load_tokenizer(folder)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerFilesError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_token_bytes_spell_the_text(text: str) -> None:
    tokenizer = BYTE_LEVEL
    ids = tokenizer.encode(text, add_special_tokens=False)

    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


def test_an_id_without_a_token_has_no_text() -> None:
    assert BYTE_LEVEL.token_bytes(10**6) == b""
    assert BYTE_LEVEL.token_string(10**6) == ""

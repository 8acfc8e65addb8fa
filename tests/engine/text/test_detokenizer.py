"""Text grows by whole characters, and what was shown is what decoding everything at once gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, normalizers

from baton.engine.text.checkpoint_files import TextSettings
from baton.engine.text.detokenizer import (
    ByteLevelDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    make_detokenizer,
)
from baton.engine.text.tokenizer import Tokenizer
from support.tokenizers import build_tokenizer

NO_SETTINGS = TextSettings(
    bos_token=None, eos_token=None, add_bos_token=None, eos_token_ids=(), chat_template=None
)


def sentencepiece_like() -> LibraryTokenizer:
    """Byte fallback and a stripped leading space, as Llama's first tokenizers."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁red", "▁door", "re", "d", "é", "o"]
    library = LibraryTokenizer(
        models.BPE(
            vocab={word: place for place, word in enumerate(words)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return library


BYTE_LEVEL = Tokenizer(build_tokenizer(), NO_SETTINGS)
WINDOWED = Tokenizer(sentencepiece_like(), NO_SETTINGS)
BOTH = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, WINDOWED], ids=["byte_level", "windowed"])


def deltas(detokenizer: Detokenizer, token_ids: list[int]) -> list[str]:
    return [detokenizer.push(token_id) for token_id in token_ids]


@BOTH
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_the_pieces_add_up_to_the_text_decoded_at_once(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = make_detokenizer(tokenizer, [], skip_special_tokens=True)

    assert "".join(deltas(detokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, BYTE_LEVEL.vocab_size - 1), max_size=40), skip=st.booleans())
def test_any_token_ids_read_as_they_do_at_once_but_for_a_character_cut_off_at_the_end(
    ids: list[int], skip: bool
) -> None:
    shown = "".join(deltas(make_detokenizer(BYTE_LEVEL, [], skip_special_tokens=skip), ids))
    at_once = BYTE_LEVEL.decode(ids, skip_special_tokens=skip)

    assert at_once in (shown, shown + "\ufffd")


@BOTH
def test_a_character_appears_only_when_its_last_byte_has_come(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🙂", add_special_tokens=False)
    ids = ids[1:] if tokenizer is WINDOWED else ids  # without the space the normalizer puts first

    shown = deltas(make_detokenizer(tokenizer, [], skip_special_tokens=True), ids)

    assert len(ids) > 1
    assert shown == [""] * (len(ids) - 1) + ["🙂"]


def test_the_first_word_after_a_prompt_keeps_its_space() -> None:
    red, door = WINDOWED.id_of("▁red"), WINDOWED.id_of("▁door")
    assert red is not None
    assert door is not None

    assert make_detokenizer(WINDOWED, [red], skip_special_tokens=True).push(door) == " door"


def test_a_character_begun_in_the_prompt_is_completed() -> None:
    ids = BYTE_LEVEL.encode("🙂", add_special_tokens=False)

    detokenizer = make_detokenizer(BYTE_LEVEL, ids[:-1], skip_special_tokens=True)

    assert detokenizer.push(ids[-1]) == "🙂"


def test_special_tokens_are_shown_only_when_asked_for() -> None:
    end = BYTE_LEVEL.id_of("<|end|>")
    assert end is not None

    assert make_detokenizer(BYTE_LEVEL, [], skip_special_tokens=True).push(end) == ""
    assert make_detokenizer(BYTE_LEVEL, [], skip_special_tokens=False).push(end) == "<|end|>"


def test_invalid_bytes_without_end_are_shown_instead_of_held_forever() -> None:
    lone = WINDOWED.id_of("<0xFF>")
    assert lone is not None

    shown = deltas(make_detokenizer(WINDOWED, [], skip_special_tokens=True), [lone] * 40)

    assert "".join(shown).count("\ufffd") >= 32


def test_the_kind_follows_the_tokenizer() -> None:
    assert isinstance(make_detokenizer(BYTE_LEVEL, [], skip_special_tokens=True), ByteLevelDetokenizer)
    assert isinstance(make_detokenizer(WINDOWED, [], skip_special_tokens=True), WindowDetokenizer)

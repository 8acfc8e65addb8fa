"""A checkpoint's tokenizer: text to ids and ids to bytes, with the folder's rules for special tokens.

Wraps the `tokenizers` library, whose encoding releases the GIL: callers may encode long texts in a thread.
Nothing here changes after loading but caches of token bytes, which only the event loop's thread fills.
"""

from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as LibraryTokenizer

from .byte_level import BYTE_OF_CHAR
from .checkpoint_files import TextSettings, TokenizerFilesError, read_text_settings


class Tokenizer:
    """Encodes and decodes with one checkpoint's vocabulary."""

    def __init__(self, library: LibraryTokenizer, settings: TextSettings) -> None:
        self.settings = settings
        self.vocab_size: int = library.get_vocab_size(with_added_tokens=True)
        self.special_ids: frozenset[int] = frozenset(
            token_id for token_id, token in library.get_added_tokens_decoder().items() if token.special
        )
        self.is_byte_level: bool = _is_byte_level(library)
        self._library = library
        self._bytes_of_token: dict[int, bytes] = {}
        self._bos_id: int | None = None if settings.bos_token is None else self.id_of(settings.bos_token)
        eos_id = None if settings.eos_token is None else self.id_of(settings.eos_token)
        self.eos_token_ids: tuple[int, ...] = settings.eos_token_ids or (() if eos_id is None else (eos_id,))

    def id_of(self, token: str) -> int | None:
        """Return the id of exactly this token, or None."""
        token_id: int | None = self._library.token_to_id(token)
        return token_id

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`; `add_special_tokens` adds what the model expects at the start."""
        ids: list[int] = self._library.encode(text, add_special_tokens=add_special_tokens).ids
        if add_special_tokens and self._bos_id is not None:
            starts_with_bos = ids[:1] == [self._bos_id]
            if self.settings.add_bos_token is True and not starts_with_bos:
                ids.insert(0, self._bos_id)
            elif self.settings.add_bos_token is False and starts_with_bos and not self._begins_with_bos(text):
                del ids[0]
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of `token_ids`, bytes that are no UTF-8 as U+FFFD."""
        text: str = self._library.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def token_string(self, token_id: int) -> str:
        """Return the vocabulary's spelling of a token (byte-level characters kept), "" for an unused id."""
        return self._library.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        """Return what the token contributes to the text, as bytes; empty for an unused id."""
        known = self._bytes_of_token.get(token_id)
        if known is None:
            known = self._bytes_of_token[token_id] = self._compute_bytes(token_id)
        return known

    def _begins_with_bos(self, text: str) -> bool:
        return self.settings.bos_token is not None and text.startswith(self.settings.bos_token)

    def _compute_bytes(self, token_id: int) -> bytes:
        if not self.is_byte_level:
            return self.decode([token_id], skip_special_tokens=False).encode()
        token = self.token_string(token_id)
        mapped = [BYTE_OF_CHAR.get(char) for char in token]
        # A token with a character outside the alphabet is an added one, spelled as it reads.
        return token.encode() if None in mapped else bytes(byte for byte in mapped if byte is not None)


class _ByteLevelSpec(msgspec.Struct, frozen=True):
    type: str
    decoders: list["_ByteLevelSpec"] = []


class _DecoderFile(msgspec.Struct, frozen=True):
    decoder: _ByteLevelSpec | None = None


def _is_byte_level(library: LibraryTokenizer) -> bool:
    """Whether decoding is a plain concatenation of bytes, token by token."""
    decoder = msgspec.json.decode(library.to_str(), type=_DecoderFile).decoder
    if decoder is None:
        return False
    steps = decoder.decoders if decoder.type == "Sequence" else [decoder]
    return [step.type for step in steps] == ["ByteLevel"]


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a Hugging Face folder. Raises `TokenizerFilesError` naming the file at fault."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerFilesError(f"{path}: no such file; Baton reads tokenizers in this format only")
    settings = read_text_settings(folder)
    try:
        library: Any = LibraryTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception on a malformed file
        raise TokenizerFilesError(f"{path}: {error}") from error
    library.no_truncation()
    library.no_padding()
    return Tokenizer(library, settings)

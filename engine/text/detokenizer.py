"""Ids to text as they are generated: each push returns the characters that are complete, never half of one.

    make_detokenizer(...)  ->  push(id) "" | "new text"  ...

Byte-level vocabularies (DeepSeek, Qwen, Kimi) decode by concatenating bytes, so an incremental UTF-8 decoder
is exact and costs O(1) a token. Others are decoded over a window of the last tokens, because a token's
text may depend on its neighbours (a leading space). Bytes of a character that never completes are dropped.
"""

import codecs
from typing import Protocol

from .tokenizer import Tokenizer

PRIMING_TOKENS = 6
"""Prompt tokens that give the first generated token its context: more than a character's four bytes."""

MAX_UNREAD_TOKENS = 8
"""A window that grew to this without a complete character holds invalid bytes: its text is final."""

REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """One choice's text so far."""

    def push(self, token_id: int) -> str:
        """Add a generated token; return the text that became complete, often a word, possibly empty."""


class ByteLevelDetokenizer:
    """Concatenates token bytes through an incremental UTF-8 decoder."""

    def __init__(self, tokenizer: Tokenizer, prompt_tail: list[int], *, skip_special_tokens: bool) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        for token_id in prompt_tail:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """See `Detokenizer.push`."""
        if token_id in self._skipped:
            return ""
        return self._decode(self._token_bytes(token_id))


class WindowDetokenizer:
    """Decodes a short window twice, without and with the new tokens, and returns the difference."""

    def __init__(self, tokenizer: Tokenizer, prompt_tail: list[int], *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._context = list(prompt_tail)
        self._unread: list[int] = []

    def push(self, token_id: int) -> str:
        """See `Detokenizer.push`."""
        if self._skip_special_tokens and token_id in self._tokenizer.special_ids:
            return ""
        self._unread.append(token_id)
        before = self._text(self._context)
        after = self._text(self._context + self._unread)
        incomplete = after.endswith(REPLACEMENT) and len(self._unread) < MAX_UNREAD_TOKENS
        if incomplete or len(after) <= len(before):
            return ""
        self._context, self._unread = self._unread, []
        return after[len(before) :]

    def _text(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)


def make_detokenizer(
    tokenizer: Tokenizer, prompt_token_ids: list[int], *, skip_special_tokens: bool
) -> Detokenizer:
    """Return a detokeniser for text that follows `prompt_token_ids`."""
    tail = prompt_token_ids[-PRIMING_TOKENS:]
    kind = ByteLevelDetokenizer if tokenizer.is_byte_level else WindowDetokenizer
    return kind(tokenizer, tail, skip_special_tokens=skip_special_tokens)

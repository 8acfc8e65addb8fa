"""The engine's log probabilities in the shapes of the two APIs. No I/O."""

import msgspec

from ..messages import TokenLogprob
from ..text.tokenizer import Tokenizer

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say (vLLM's value)."""


class ChatTopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate token of a chat completion."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One generated token of a chat completion."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """`choices[].logprobs` of a chat completion."""

    content: list[ChatTokenLogprob]


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """`choices[].logprobs` of a completion: parallel lists, one entry a token."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


def chat_logprobs(tokenizer: Tokenizer, logprobs: list[TokenLogprob]) -> ChatLogprobs:
    """Return the chat shape."""
    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                token=token_text(tokenizer, entry.token_id),
                logprob=finite(entry.logprob),
                bytes=list(tokenizer.token_bytes(entry.token_id)),
                top_logprobs=[
                    ChatTopLogprob(
                        token=token_text(tokenizer, top.token_id),
                        logprob=finite(top.logprob),
                        bytes=list(tokenizer.token_bytes(top.token_id)),
                    )
                    for top in entry.top
                ],
            )
            for entry in logprobs
        ]
    )


def completion_logprobs(
    tokenizer: Tokenizer, logprobs: list[TokenLogprob], *, first_offset: int
) -> CompletionLogprobs:
    """Return the completion shape; `first_offset` is where the first token's text begins in the choice."""
    tokens = [token_text(tokenizer, entry.token_id) for entry in logprobs]
    offsets = [first_offset]
    for token in tokens:
        offsets.append(offsets[-1] + len(token))
    return CompletionLogprobs(
        text_offset=offsets[:-1],
        token_logprobs=[finite(entry.logprob) for entry in logprobs],
        tokens=tokens,
        top_logprobs=[_candidates(tokenizer, entry) for entry in logprobs],
    )


def _candidates(tokenizer: Tokenizer, entry: TokenLogprob) -> dict[str, float]:
    """The chosen token first, whether or not it is among the best (as vLLM does)."""
    candidates = {token_text(tokenizer, entry.token_id): finite(entry.logprob)}
    for top in entry.top:
        candidates.setdefault(token_text(tokenizer, top.token_id), finite(top.logprob))
    return candidates


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """Return one token as text; bytes of an incomplete character read U+FFFD."""
    return tokenizer.token_bytes(token_id).decode(errors="replace")


def finite(logprob: float) -> float:
    """Return a number that JSON can carry."""
    return max(logprob, LOWEST_LOGPROB)

"""What a worker's answer says at its end: tokens, cached tokens, and the account beside them. No I/O.

Looked for in the last bytes alone, and only once for each answer: a stream's usage stands in its last events.
"""

from typing import Final

import msgspec

from .worker_words import NO_USAGE, Usage, answer_decoder

USAGE: Final = b'"usage":'
LONGEST_TAIL_BYTES: Final = 16 * 1024


def usage_at_end(tail: bytes, *, event_stream: bool) -> tuple[Usage, msgspec.Raw | None]:
    """Return the usage in the last bytes of an answer, and the account beside it, if they are whole there."""
    place = tail.rfind(USAGE, -LONGEST_TAIL_BYTES)
    if place < 0:
        return NO_USAGE, None
    if event_stream:
        start, end = tail.rfind(b"data: ", 0, place) + 6, tail.find(b"\n\n", place)
    else:
        start, end = tail.find(b"{"), tail.rfind(b"}") + 1
    if (start < 6 and event_stream) or end < 0:
        return NO_USAGE, None
    try:
        answer = answer_decoder.decode(memoryview(tail)[start:end])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return NO_USAGE, None  # an answer is the client's to judge
    return answer.usage or NO_USAGE, account_of(answer.baton)


def cached_tokens(usage: Usage) -> int | None:
    """Return the prompt tokens that the worker had already; None where it does not say."""
    details = usage.prompt_tokens_details
    return None if details is None else details.cached_tokens


def account_of(raw: msgspec.Raw) -> msgspec.Raw | None:
    """Return a worker's account as bytes of its own; None where there is none."""
    return None if bytes(raw) == b"null" else raw.copy()

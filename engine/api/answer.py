"""What an answer is made of, whichever API asked: the parts common to both shapes. No I/O.

`completion_answer` and `chat_answer` are the two shapes; `generate` calls them without knowing which it has.
"""

from typing import Protocol

import msgspec

from ...kvtransfer.params import KvTransferParams
from ..messages import TokenLogprob
from .progress import Delta
from .usage import BatonReport, Usage

_encode = msgspec.json.Encoder().encode

DONE_EVENT = b"data: [DONE]\n\n"


class AnswerId(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at the head of every response and every chunk."""

    id: str
    created: int
    """Unix time in seconds."""
    model: str


class ChoiceResult:
    """One whole choice, gathered from its deltas."""

    def __init__(self, index: int, prompt_token_ids: list[int], prompt_text: str | None) -> None:
        self.index = index
        self.prompt_token_ids = prompt_token_ids
        self.prompt_text = prompt_text
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        """Append what one delta brought."""
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or []
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """What is known only at the end of an answer."""

    usage: Usage
    report: BatonReport
    offer: KvTransferParams | None


class Answer(Protocol):
    """One HTTP request's answer in one API's shape."""

    def opening(self, results: list[ChoiceResult]) -> bytes:
        """Return the events that begin a stream, before any token; possibly none."""

    def shows(self, delta: Delta) -> bool:
        """Whether the delta has anything for the client; held-back text has not."""

    def chunk(self, delta: Delta, offer: KvTransferParams | None = None) -> bytes:
        """Return the event of one delta; the last one of a stream carries the offer."""

    def usage_chunk(self, closing: Closing) -> bytes:
        """Return the event with the usage, after the last delta."""

    def whole(self, results: list[ChoiceResult], closing: Closing) -> bytes:
        """Return the body of an answer that is not streamed."""


class ChunkFrame:
    """The constant bytes around a chunk's choices, encoded once a request.

    data: {"id":...,"object":...,"created":...,"model":...,"choices":[ CHOICES ]}
    """

    def __init__(self, head: AnswerId, object_name: str) -> None:
        fields = {"id": head.id, "object": object_name, "created": head.created, "model": head.model}
        self.before = b"data: " + _encode(fields)[:-1] + b',"choices":['
        self.after = b"]}\n\n"

    def event(self, choice: msgspec.Struct, offer: KvTransferParams | None) -> bytes:
        """Return the event of one choice."""
        after = self.after
        if offer is not None:
            after = b'],"kv_transfer_params":' + _encode(offer) + b"}\n\n"
        return self.before + _encode(choice) + after

    def usage_event(self, closing: Closing) -> bytes:
        """Return the event without choices that carries usage and report."""
        usage, report = _encode(closing.usage), _encode(closing.report)
        return self.before + b'],"usage":' + usage + b',"baton":' + report + b"}\n\n"

    def around(self, choice_before: bytes, choice_after: bytes) -> tuple[bytes, bytes]:
        """Return the constant bytes before and after the one value that changes in a plain chunk."""
        return self.before + choice_before, choice_after + self.after


def encode_text(text: str) -> bytes:
    """Return `text` as a JSON string."""
    return _encode(text)

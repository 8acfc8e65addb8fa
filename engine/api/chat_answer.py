"""The shape of `/v1/chat/completions`: `chat.completion` objects and their chunks. No I/O."""

import msgspec

from ...kvtransfer.params import KvTransferParams
from ..messages import TokenLogprob
from ..text.tokenizer import Tokenizer
from .answer import AnswerId, ChoiceResult, ChunkFrame, Closing, encode_text
from .logprobs import ChatLogprobs, chat_logprobs
from .progress import Delta
from .usage import BatonReport, Usage

OBJECT = "chat.completion"
CHUNK_OBJECT = "chat.completion.chunk"


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The assistant's whole message."""

    role: str
    content: str
    refusal: str | None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One whole choice."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] | None = None


class ChatResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A whole answer; a field without a default is always there."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    baton: BatonReport
    kv_transfer_params: KvTransferParams | None
    prompt_token_ids: list[int] | None = None


class ChatMessageDelta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a chunk adds to the message."""

    role: str | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A chunk of one choice."""

    index: int
    delta: ChatMessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class ChatAnswer:
    """See `answer.Answer`."""

    def __init__(self, head: AnswerId, tokenizer: Tokenizer, *, logprobs: bool, token_ids: bool) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._frame = ChunkFrame(head, CHUNK_OBJECT)
        self._plain: dict[int, tuple[bytes, bytes]] = {}

    def opening(self, results: list[ChoiceResult]) -> bytes:
        """Return the chunks that name the role of each choice."""
        return b"".join(self._frame.event(self._opening_choice(result), None) for result in results)

    def shows(self, delta: Delta) -> bool:
        """Whether the delta has anything for the client; held-back text has not."""
        return bool(delta.text) or delta.finish_reason is not None or self._logprobs or self._token_ids

    def chunk(self, delta: Delta, offer: KvTransferParams | None = None) -> bytes:
        """Return the event of one delta; plain text takes the path of constant bytes around it."""
        if delta.finish_reason is None and not (self._logprobs or self._token_ids):
            before, after = self._plain.get(delta.index) or self._plain_parts(delta.index)
            return before + encode_text(delta.text) + after
        choice = ChatChunkChoice(
            index=delta.index,
            delta=ChatMessageDelta(content=delta.text),
            logprobs=self._shaped(delta.logprobs),
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            token_ids=delta.token_ids if self._token_ids else None,
        )
        return self._frame.event(choice, offer)

    def usage_chunk(self, closing: Closing) -> bytes:
        """Return the event with the usage."""
        return self._frame.usage_event(closing)

    def whole(self, results: list[ChoiceResult], closing: Closing) -> bytes:
        """Return the body of an answer that is not streamed."""
        response = ChatResponse(
            id=self._head.id,
            object=OBJECT,
            created=self._head.created,
            model=self._head.model,
            choices=[self._whole_choice(result) for result in results],
            usage=closing.usage,
            baton=closing.report,
            kv_transfer_params=closing.offer,
            prompt_token_ids=results[0].prompt_token_ids if self._token_ids else None,
        )
        return msgspec.json.encode(response)

    def _whole_choice(self, result: ChoiceResult) -> ChatChoice:
        return ChatChoice(
            index=result.index,
            message=ChatMessage(role="assistant", content=result.text),
            logprobs=self._shaped(result.logprobs),
            finish_reason=result.finish_reason,
            stop_reason=result.stop_reason,
            token_ids=result.token_ids if self._token_ids else None,
        )

    def _opening_choice(self, result: ChoiceResult) -> ChatChunkChoice:
        return ChatChunkChoice(
            index=result.index,
            delta=ChatMessageDelta(role="assistant", content=""),
            logprobs=None,
            finish_reason=None,
            stop_reason=None,
            prompt_token_ids=result.prompt_token_ids if self._token_ids else None,
        )

    def _shaped(self, logprobs: list[TokenLogprob] | None) -> ChatLogprobs | None:
        if not self._logprobs or logprobs is None:
            return None
        return chat_logprobs(self._tokenizer, logprobs)

    def _plain_parts(self, index: int) -> tuple[bytes, bytes]:
        parts = self._frame.around(
            b'{"index":%d,"delta":{"content":' % index,
            b'},"logprobs":null,"finish_reason":null,"stop_reason":null}',
        )
        self._plain[index] = parts
        return parts

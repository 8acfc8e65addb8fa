"""The shape of `/v1/completions`: `text_completion` objects, whole and in chunks. No I/O."""

import msgspec

from ...kvtransfer.params import KvTransferParams
from ..text.tokenizer import Tokenizer
from .answer import AnswerId, ChoiceResult, ChunkFrame, Closing, encode_text
from .logprobs import CompletionLogprobs, completion_logprobs
from .progress import Delta
from .usage import BatonReport, Usage

OBJECT = "text_completion"


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One choice, whole or a chunk of it; a field without a default is always there."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    baton: BatonReport
    kv_transfer_params: KvTransferParams | None


class CompletionAnswer:
    """See `answer.Answer`."""

    def __init__(
        self, head: AnswerId, tokenizer: Tokenizer, *, logprobs: bool, token_ids: bool, echo: bool
    ) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._echo = echo
        self._frame = ChunkFrame(head, OBJECT)
        self._plain: dict[int, tuple[bytes, bytes]] = {}
        self._offsets: dict[int, int] = {}

    def opening(self, results: list[ChoiceResult]) -> bytes:
        """Return the prompts, where the client wants them before the answers or as ids."""
        return b"".join(
            self._frame.event(self._opening_choice(result), None)
            for result in results
            if self._echo or self._token_ids
        )

    def shows(self, delta: Delta) -> bool:
        """Whether the delta has anything for the client; held-back text has not."""
        return bool(delta.text) or delta.finish_reason is not None or self._logprobs or self._token_ids

    def chunk(self, delta: Delta, offer: KvTransferParams | None = None) -> bytes:
        """Return the event of one delta; plain text takes the path of constant bytes around it."""
        if delta.finish_reason is None and not (self._logprobs or self._token_ids):
            before, after = self._plain.get(delta.index) or self._plain_parts(delta.index)
            return before + encode_text(delta.text) + after
        logprobs = None
        if self._logprobs and delta.logprobs is not None:
            offset = self._offsets.get(delta.index, 0)
            logprobs = completion_logprobs(self._tokenizer, delta.logprobs, first_offset=offset)
            self._offsets[delta.index] = offset + sum(map(len, logprobs.tokens))
        choice = CompletionChoice(
            index=delta.index,
            text=delta.text,
            logprobs=logprobs,
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
        response = CompletionResponse(
            id=self._head.id,
            object=OBJECT,
            created=self._head.created,
            model=self._head.model,
            choices=[self._whole_choice(result) for result in results],
            usage=closing.usage,
            baton=closing.report,
            kv_transfer_params=closing.offer,
        )
        return msgspec.json.encode(response)

    def _whole_choice(self, result: ChoiceResult) -> CompletionChoice:
        logprobs = None
        if self._logprobs:
            logprobs = completion_logprobs(self._tokenizer, result.logprobs, first_offset=0)
        return CompletionChoice(
            index=result.index,
            text=self._echoed(result) + result.text,
            logprobs=logprobs,
            finish_reason=result.finish_reason,
            stop_reason=result.stop_reason,
            token_ids=result.token_ids if self._token_ids else None,
            prompt_token_ids=result.prompt_token_ids if self._token_ids else None,
        )

    def _opening_choice(self, result: ChoiceResult) -> CompletionChoice:
        return CompletionChoice(
            index=result.index,
            text=self._echoed(result),
            logprobs=None,
            finish_reason=None,
            stop_reason=None,
            prompt_token_ids=result.prompt_token_ids if self._token_ids else None,
        )

    def _echoed(self, result: ChoiceResult) -> str:
        if not self._echo:
            return ""
        if result.prompt_text is not None:
            return result.prompt_text
        return self._tokenizer.decode(result.prompt_token_ids, skip_special_tokens=True)

    def _plain_parts(self, index: int) -> tuple[bytes, bytes]:
        parts = self._frame.around(
            b'{"index":%d,"text":' % index, b',"logprobs":null,"finish_reason":null,"stop_reason":null}'
        )
        self._plain[index] = parts
        return parts

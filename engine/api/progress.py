"""From the engine's tokens to a request's text: what each choice adds, when it ends, what to abort. No I/O.

    PromptProgress.on_event(event, now)  ->  [Delta ...]   and `aborts` to send

A choice ends by the engine's word, or by a stop string, which only the frontend sees; then the engine is told
to end that choice.
"""

import msgspec

from ...kvtransfer.params import KvTransferParams
from ..messages import (
    Abort,
    FinishReason,
    FirstToken,
    Generate,
    RequestDone,
    SequenceOutput,
    TokenLogprob,
)
from ..text.detokenizer import make_detokenizer
from ..text.stop_strings import StopStrings
from ..text.tokenizer import Tokenizer
from .errors import aborted_error
from .mailbox import GenerationEvent


class TextOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens become text, as the request asked."""

    stops: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    asked_stop_token_ids: frozenset[int] = frozenset()
    """Stop ids of the request itself: reported as the stop reason, unlike the model's own."""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine output added to one choice."""

    index: int
    """Place of the choice in the HTTP response."""
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: str | None
    stop_reason: str | int | None


class ChoiceProgress:
    """One choice: its text so far and whether it has ended."""

    def __init__(self, index: int, tokenizer: Tokenizer, generate: Generate, options: TextOptions) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.completion_tokens = 0
        self._min_tokens = generate.sampling.min_tokens
        self._options = options
        self._stops = StopStrings(options.stops, include_stop=options.include_stop)
        self._detokenizer = make_detokenizer(
            tokenizer, generate.prompt_token_ids, skip_special_tokens=options.skip_special_tokens
        )

    @property
    def ended(self) -> bool:
        """Whether nothing will be added."""
        return self.finish_reason is not None

    def advance(self, output: SequenceOutput) -> Delta:
        """Add the tokens of one output; what follows a stop string is dropped."""
        text, stop, used = self._read(output)
        finish_reason = None if output.finish is None else output.finish.value
        stop_reason: str | int | None = stop
        if stop is not None:
            finish_reason = FinishReason.STOP.value
        elif finish_reason is not None:
            text += self._stops.flush()
            stop_reason = self._asked(output.stop_token_id)
        self.finish_reason = finish_reason
        return Delta(
            index=self.index,
            text=text,
            token_ids=output.token_ids[:used],
            logprobs=None if output.logprobs is None else output.logprobs[:used],
            finish_reason=finish_reason,
            stop_reason=stop_reason,
        )

    def _read(self, output: SequenceOutput) -> tuple[str, str | None, int]:
        """Return the new text, the stop string that ended it, and how many tokens were used."""
        shown = ""
        last = len(output.token_ids) - 1
        for place, token_id in enumerate(output.token_ids):
            self.completion_tokens += 1
            if place == last and output.stop_token_id is not None and not self._options.include_stop:
                continue
            text = self._detokenizer.push(token_id)
            if self.completion_tokens <= self._min_tokens:
                shown += text
                continue
            cut = self._stops.push(text)
            shown += cut.text
            if cut.stop is not None:
                return shown, cut.stop, place + 1
        return shown, None, last + 1

    def _asked(self, stop_token_id: int | None) -> int | None:
        return stop_token_id if stop_token_id in self._options.asked_stop_token_ids else None


class PromptProgress:
    """One prompt's request to the engine: its choices, and what is known about its first token."""

    def __init__(
        self,
        generate: Generate,
        tokenizer: Tokenizer,
        options: TextOptions,
        *,
        first_index: int,
        arrived_at: float,
    ) -> None:
        """`first_index` is the place of its first choice in the response; times are monotonic seconds."""
        self.generate = generate
        self.choices = [
            ChoiceProgress(first_index + choice, tokenizer, generate, options) for choice in range(generate.n)
        ]
        self.first: FirstToken | None = None
        self.offer: KvTransferParams | None = None
        self.aborts: list[Abort] = []
        """Commands for the engine; whoever sends them empties the list."""
        self.arrived_at = arrived_at
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        transfer = generate.kv_transfer
        self.wants_offer = transfer is not None and transfer.do_remote_decode
        """Whether the answer is complete only with the hand-over's parameters."""
        self._open_choices = generate.n  # counted, because whether any is left is asked for every token
        self._done = False

    @property
    def choices_ended(self) -> bool:
        """Whether no choice will add anything."""
        return self._open_choices == 0

    @property
    def complete(self) -> bool:
        """Whether all that belongs in the answer is here."""
        return self._open_choices == 0 and (self._done or not self.wants_offer)

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far, over all choices."""
        return sum(choice.completion_tokens for choice in self.choices)

    def on_event(self, event: GenerationEvent, now: float) -> Delta | None:
        """Take one event. Raises `ApiError` when the engine says that the request was aborted."""
        match event:
            case SequenceOutput():
                return self._on_output(event, now)
            case FirstToken():
                self.first = event
            case RequestDone():
                self.offer = event.kv_transfer
                self._done = True
        return None

    def _on_output(self, output: SequenceOutput, now: float) -> Delta | None:
        if output.finish is FinishReason.ABORT:
            raise aborted_error()
        choice = self.choices[output.choice]
        if choice.ended:  # on its way when the stop string was found
            return None
        if output.token_ids:
            self.first_token_at = self.first_token_at if self.first_token_at is not None else now
            self.last_token_at = now
        delta = choice.advance(output)
        if delta.finish_reason is not None:
            self._open_choices -= 1
            if output.finish is None:
                self._abort_choice(output.choice)
        return delta

    def _abort_choice(self, choice: int) -> None:
        """Tell the engine of a stop string; the last choice ends the request, unless an offer is due."""
        whole = self.choices_ended and not self.wants_offer
        self.aborts.append(Abort(request_id=self.generate.request_id, choice=None if whole else choice))

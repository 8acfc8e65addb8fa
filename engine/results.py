"""What a step's draws mean: tokens appended, trunks forked, choices ended. Pure; `scheduler` calls it."""

import operator
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from .messages import FailureKind, FinishReason, SequenceOutput, StepOutputs, TokenLogprob
from .progress import finish_reason, first_token, tokens_output
from .sequence import Request, Sequence, Stage
from .step import Command, Send

if TYPE_CHECKING:
    from .scheduler import Scheduler


class Draw(Protocol):
    """What the sampler gives for one choice."""

    @property
    def token_id(self) -> int:
        """The chosen token."""

    @property
    def logprob(self) -> TokenLogprob | None:
        """Its log probability, when asked for."""

    @property
    def then(self) -> Iterable["Draw"]:
        """The tokens after it that the same step gave."""

    @property
    def drafts(self) -> Iterable[int]:
        """Guesses at what follows all of these."""


class StepResults:
    """Takes the draws of one step and collects what is to be said and done about them."""

    def __init__(self, scheduler: "Scheduler", now: float) -> None:
        self._scheduler = scheduler
        self._now = now
        self._firsts: list[Command] = []
        self._outputs: list[SequenceOutput] = []
        self._ends: list[Command] = []

    def take(self, sampled: list[Sequence], draws: Iterator[Draw | None]) -> list[Command]:
        """Return the commands in order: first tokens and offers, one `StepOutputs`, ends of requests."""
        for sequence in sampled:
            drawn = [next(draws) for _ in sequence.choices]
            tokens = [draw for draw in drawn if draw is not None]
            if sequence.stage is Stage.ENDED:
                continue  # another choice of its request failed
            if len(tokens) < len(drawn):
                message = "the model's logits hold no finite maximum"
                self._ends += self._scheduler.fail(sequence.request, FailureKind.INTERNAL, message)
                continue
            self._take_tokens(sequence, tokens)
        outputs: list[Command] = [Send(StepOutputs(outputs=self._outputs))] if self._outputs else []
        return [*self._firsts, *outputs, *self._ends]

    def _take_tokens(self, sequence: Sequence, tokens: list[Draw]) -> None:
        request = sequence.request
        if not request.first_token_sent:
            self._note_first_token(request)
        has_ended = False
        for row, draw in zip(self._rows_of(sequence), tokens, strict=True):
            self._append_all(row, draw)
            has_ended = has_ended or row.stage is Stage.ENDED
        if has_ended:
            self._ends += self._scheduler.finish_if_done(request)

    def _note_first_token(self, request: Request) -> None:
        request.first_token_sent = True
        if request.timeline.kv_ready_at is None:
            request.timeline.kv_ready_at = self._now
        self._scheduler.counters.count_first_token(request)
        self._firsts.append(Send(first_token(request, self._now)))

    def _rows_of(self, sequence: Sequence) -> list[Sequence]:
        """Return one decode row a choice; a trunk forks here."""
        scheduler = self._scheduler
        if sequence.stage is not Stage.DECODE:
            scheduler.roster.move(sequence, Stage.DECODE)
        if len(sequence.choices) == 1:
            return [sequence]
        rows = scheduler.cache.fork(sequence)
        for fork in rows[1:]:
            sequence.request.sequences.append(fork)
            scheduler.roster.add(fork, Stage.DECODE)
        return rows

    def _append_all(self, sequence: Sequence, draw: Draw) -> None:
        """Append a draw and what it has in `then`, whose KV was computed in the same step."""
        token_ids, logprobs, finish = [draw.token_id], [draw.logprob], self._append(sequence, draw)
        for following in draw.then:
            if finish is not None:
                break
            sequence.num_computed += 1
            self._scheduler.cache.publish(sequence)
            token_ids.append(following.token_id)
            logprobs.append(following.logprob)
            finish = self._append(sequence, following)
        if sequence.drafts:
            right = sum(map(operator.eq, token_ids, sequence.drafts))
            self._scheduler.counters.count_drafts(len(sequence.drafts), right)
        sequence.drafts = list(draw.drafts)
        self._outputs.append(tokens_output(sequence, token_ids, logprobs, finish))
        if finish is not None:
            self._firsts += self._scheduler.settle(sequence, self._now)
            self._scheduler.close(sequence)

    def _append(self, sequence: Sequence, draw: Draw) -> FinishReason | None:
        sequence.tokens.append(draw.token_id)
        self._scheduler.counters.generated_tokens += 1
        state = sequence.request.sampling_states.get(sequence.choices[0])
        if state is not None:
            state.append(draw.token_id)
        return finish_reason(sequence, self._scheduler.limits.max_model_len)

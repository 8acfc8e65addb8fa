"""Runs steps whose decode rows check guesses, and guesses for the next ones. A `StepRunner`."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

import msgspec
import torch
from torch import Tensor

from ..batch import DecodeBatch, PrefillBatch
from ..models import Model
from ..runner import Flight, copy_blocks, state_of
from ..sampler import SampledToken, Sampler
from ..sampling_state import SamplingState
from ..sequence import Sequence
from ..staging import DecodeStaging, PrefillStaging
from ..step import Chunk, Step
from ..threads import ComputeThreads
from .draft import Draft, DraftLayer, Prospect
from .verify import Row, accepted, rows_of, wanted


class DraftingModel(Model, Protocol):
    """A model that shows its final states, which a draft layer reads."""

    def prefill_states(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """Do what `prefill` does; return the states of all tokens, `[T, hidden]`."""
        ...

    def decode_states(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Do what `decode` does; return the states of live rows, `[live, hidden]`."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Return the float32 logits of states."""
        ...


@dataclass(frozen=True, slots=True)
class Chain:
    """How far guesses may go."""

    tokens: int
    """A step and sequence at most"""
    max_model_len: int


@dataclass(frozen=True, slots=True)
class Stagings:
    """Where batches are put together."""

    prompts: PrefillStaging
    rows: DecodeStaging
    """A row for each sequence and each of its guesses."""
    drafts: DecodeStaging
    """A row for each sequence."""


@dataclass(slots=True)
class Outcome:
    """What one sequence got in a step."""

    sequence: Sequence
    draws: list[SampledToken | None]
    """One for each choice"""
    tokens: list[SampledToken]
    """All that a single choice got; empty where nothing can be drawn"""
    state: Tensor
    """[1, hidden], before the last of `tokens`"""

    def finished(self, drafts: list[int]) -> list[SampledToken | None]:
        """Return one draw for each choice, with what follows it."""
        if len(self.tokens) < 2 and not drafts:
            return self.draws
        first, *then = self.tokens
        return [msgspec.structs.replace(first, then=tuple(then), drafts=tuple(drafts))]


@dataclass(frozen=True, slots=True)
class Landed:
    """A `Flight` that is over."""

    draws: list[SampledToken | None]

    def land(self) -> list[SampledToken | None]:
        """Return the draws."""
        return self.draws


class SpeculativeRunner:
    """Runs steps on a model, its draft layer and their KV pool."""

    def __init__(
        self,
        model: DraftingModel,
        layer: DraftLayer,
        kv: Tensor,
        stagings: Stagings,
        *,
        chain: Chain,
        threads: ComputeThreads,
    ) -> None:
        vocab_size = model.config.vocab_size
        self._model = model
        self._layer = layer
        self._kv = kv
        self._stagings = stagings
        self._chain = chain
        self._threads = threads
        self._draft = Draft(layer, kv, stagings.drafts, vocab_size=vocab_size, tokens=chain.tokens)
        self._prompt_sampler, self._row_sampler = (Sampler(vocab_size, kv.device) for _ in range(2))

    @torch.inference_mode()
    def launch(self, step: Step) -> Flight:
        """Compute the step, draw, and guess; what is drawn must be known to guess on, so all is done then."""
        if step.copies:
            copy_blocks(self._kv, step.copies)
        outcomes: list[Outcome] = []
        if step.chunks:
            self._threads.use_for_prompts()
            outcomes += self._prompts(step)
        self._threads.use_for_decode(len(step.decode))
        if step.decode:
            outcomes += self._rows(step.decode)
        hopeful = [(outcome, count) for outcome in outcomes if (count := self._wanted(outcome))]
        guesses = self._draft.guesses([_prospect(outcome, count) for outcome, count in hopeful])
        chains = {id(o.sequence): chain for (o, _), chain in zip(hopeful, guesses, strict=True)}
        if self._kv.is_cuda:
            torch.cuda.synchronize(self._kv.device)
        return Landed([draw for o in outcomes for draw in o.finished(chains.get(id(o.sequence), []))])

    def _prompts(self, step: Step) -> list[Outcome]:
        batch = self._stagings.prompts.pack(step.chunks, step.completed)
        states = self._model.prefill_states(batch, self._kv)
        outcomes: list[Outcome] = []
        if step.completed:
            last = states.index_select(0, batch.logit_rows)
            rows = [Row(sequence, 0) for sequence in step.completed]
            draws = _draw(self._prompt_sampler, self._model.logits(last), rows)
            outcomes = [
                Outcome(row.sequence, drawn, [d for d in drawn[:1] if d is not None], last[at : at + 1])
                for at, (row, drawn) in enumerate(zip(rows, draws, strict=True))
            ]
        firsts = {id(o.sequence): o.tokens[0].token_id for o in outcomes if o.tokens}
        following = [token for chunk in step.chunks for token in _following(chunk, firsts)]
        self._write(following, batch.positions, batch.slots, states)
        return outcomes

    def _rows(self, sequences: list[Sequence]) -> list[Outcome]:
        rows = rows_of(sequences)
        batch = self._stagings.rows.pack_rows(
            [row.sequence for row in rows], [row.token_id for row in rows], [row.place for row in rows]
        )
        states = self._model.decode_states(batch, self._kv)
        draws = _draw(self._row_sampler, self._model.logits(states), rows)
        rows_by_sequence: defaultdict[int, list[int]] = defaultdict(list)
        for at, row in enumerate(rows):
            rows_by_sequence[id(row.sequence)].append(at)
        outcomes: list[Outcome] = []
        unwritten: list[int] = []
        for sequence in sequences:
            own = rows_by_sequence[id(sequence)]
            tokens = accepted(sequence.drafts, [draws[at][0] for at in own])
            last = own[max(0, len(tokens) - 1)]
            outcomes.append(Outcome(sequence, draws[own[0]], tokens, states[last : last + 1]))
            unwritten += own[: len(tokens) - bool(self._wanted(outcomes[-1]))]
        self._complete(unwritten, draws, batch, states)
        return outcomes

    def _complete(
        self, rows: list[int], draws: list[list[SampledToken | None]], batch: DecodeBatch, states: Tensor
    ) -> None:
        """Write the draft's KV at rows that it does not guess from."""
        if not rows:
            return
        following = [draw.token_id for at in rows if (draw := draws[at][0]) is not None]
        select = torch.tensor(rows, device=states.device)
        self._write(following, batch.positions[select], batch.slots[select], states[select])

    def _write(self, following: list[int], positions: Tensor, slots: Tensor, states: Tensor) -> None:
        token_ids = torch.tensor(following, device=states.device)
        self._layer.write(token_ids, positions, slots, states, self._kv)

    def _wanted(self, outcome: Outcome) -> int:
        sequence = outcome.sequence
        if state_of(sequence.request, sequence.choices[0]).counts is not None:
            return 0
        return wanted(
            sequence,
            outcome.tokens,
            most=self._chain.tokens,
            max_model_len=self._chain.max_model_len,
            block_tokens=self._kv.shape[2],
        )


def _prospect(outcome: Outcome, count: int) -> Prospect:
    sequence, gained = outcome.sequence, len(outcome.tokens)
    return Prospect(
        sequence=sequence,
        state=outcome.state,
        place=len(sequence.tokens) + gained - 2,
        token_id=outcome.tokens[-1].token_id,
        sampling=state_of(sequence.request, sequence.choices[0]),
        gained=gained,
        wanted=count,
    )


def _draw(sampler: Sampler, logits: Tensor, rows: list[Row]) -> list[list[SampledToken | None]]:
    """Draw in each row, once for each choice of its sequence."""
    states = [_states_of(row) for row in rows]
    if any(len(choices) > 1 for choices in states):
        repeated = [at for at, choices in enumerate(states) for _ in choices]
        logits = logits[repeated]
    drawn = iter(sampler.draw(logits, [state for choices in states for state in choices]).tokens())
    return [[next(drawn) for _ in choices] for choices in states]


def _states_of(row: Row) -> list[SamplingState]:
    request, choices = row.sequence.request, row.sequence.choices
    if row.ahead:
        return [state_of(request, choices[0]).later(row.ahead, slot=row.ahead)]
    return [state_of(request, choice) for choice in choices]


def _following(chunk: Chunk, firsts: dict[int, int]) -> list[int]:
    """The tokens after those of a chunk; after a prompt's last one, the token just drawn."""
    tokens, start = chunk.sequence.tokens, chunk.sequence.num_computed + 1
    following = tokens[start : start + chunk.length]
    if len(following) < chunk.length:
        following.append(firsts.get(id(chunk.sequence), 0))
    return following

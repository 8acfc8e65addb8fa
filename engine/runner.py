"""Executes one step: copies, prompt chunks, decode rows, draws. All tensor work of the engine loop is here.

It decides nothing and keeps nothing of a sequence but its sampling states. When `run` returns, everything the
step wrote into the pool is there: blocks may be offered, freed or given to a transfer.
"""

import secrets
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from .models import Model
from .sampler import NonFiniteLogitsError, SampledToken, Sampler
from .sampling_state import SamplingState
from .sequence import Request, Sequence
from .staging import DecodeStaging, PrefillStaging
from .step import Copy, Step


class StepRunner(Protocol):
    """What the loop asks of whoever computes."""

    def run(self, step: Step) -> list[SampledToken | None]:
        """Return a draw for each choice of `step.completed`, then `step.decode`; None: none is possible."""


class ModelRunner:
    """Runs steps on a model and its KV pool."""

    def __init__(
        self, model: Model, kv: Tensor, prefill_staging: PrefillStaging, decode_staging: DecodeStaging
    ) -> None:
        self._model = model
        self._kv = kv
        self._prefill_staging = prefill_staging
        self._decode_staging = decode_staging
        # Two, because each keeps the parameters of its last batch, and the decode batch changes rarely.
        self._prompt_sampler, self._decode_sampler = (
            Sampler(model.config.vocab_size, kv.device) for _ in range(2)
        )

    @torch.inference_mode()
    def run(self, step: Step) -> list[SampledToken | None]:
        """Compute the step and draw."""
        if step.copies:
            self._copy(step.copies)
        draws: list[SampledToken | None] = []
        if step.chunks:
            logits = self._model.prefill(self._prefill_staging.pack(step.chunks, step.completed), self._kv)
            draws += _draw(self._prompt_sampler, logits, step.completed)
        if step.decode:
            logits = self._model.decode(self._decode_staging.pack(step.decode), self._kv)
            draws += _draw(self._decode_sampler, logits, step.decode)
        if not draws and self._kv.is_cuda:
            torch.cuda.synchronize(
                self._kv.device
            )  # drawing waits for the device; without a draw nothing did
        return draws

    def _copy(self, copies: list[Copy]) -> None:
        sources = torch.tensor([copy.source for copy in copies], device=self._kv.device)
        targets = torch.tensor([copy.target for copy in copies], device=self._kv.device)
        self._kv[targets] = self._kv[sources]


def _draw(sampler: Sampler, logits: Tensor, sequences: list[Sequence]) -> list[SampledToken | None]:
    """Draw once for each choice of each sequence; row `i` of the logits is that of sequence `i`."""
    if not sequences:
        return []
    states = [_state(s.request, choice) for s in sequences for choice in s.choices]
    if len(states) > len(sequences):
        repeated = chain.from_iterable([row] * len(s.choices) for row, s in enumerate(sequences))
        logits = logits[list(repeated)]
    try:
        return list(sampler.sample(logits, states))
    except NonFiniteLogitsError as error:
        return _draw_without(sampler, logits, states, set(error.rows))


def _draw_without(
    sampler: Sampler, logits: Tensor, states: list[SamplingState], unusable: set[int]
) -> list[SampledToken | None]:
    """Draw for the rows that have finite logits."""
    usable = [row for row in range(len(states)) if row not in unusable]
    drawn = dict(zip(usable, sampler.sample(logits[usable], [states[row] for row in usable]), strict=True))
    return [drawn.get(row) for row in range(len(states))]


def _state(request: Request, choice: int) -> SamplingState:
    state = request.sampling_states.get(choice)
    if state is None:
        if request.fallback_seed is None:
            request.fallback_seed = secrets.randbits(63)
        generate = request.generate
        state = SamplingState(
            generate.sampling,
            generate.prompt_token_ids,
            choice=choice,
            fallback_seed=request.fallback_seed,
        )
        request.sampling_states[choice] = state
    return state

"""Executes one step: copies, prompt chunks, decode rows, draws. All tensor work of the engine loop is here.

It decides nothing and keeps nothing of a sequence but its sampling states.
"""

import secrets
from collections.abc import Callable
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from .host_copy import to_device
from .models import Model
from .sampler import Drawing, SampledToken, Sampler
from .sampling_state import SamplingState
from .sequence import Request, Sequence
from .staging import DecodeStaging, PrefillStaging
from .step import Copy, Step
from .threads import ComputeThreads


class Flight(Protocol):
    """A step that was launched."""

    def land(self) -> list[SampledToken | None]:
        """Wait for it; return a draw for each choice of `step.completed`, then `step.decode`; None: none is
        possible. What the step wrote into the pool is there: blocks may be offered, freed or transferred."""


class StepRunner(Protocol):
    """What the loop asks of whoever computes."""

    def launch(self, step: Step) -> Flight:
        """Begin a step; it runs after those that were launched before."""


class LaunchedStep:
    """A step on its way through a device, or already through it."""

    def __init__(self, drawings: list[Drawing], *, is_on_gpu: bool) -> None:
        self._drawings = drawings
        self._end: torch.cuda.Event | None = None
        if is_on_gpu:
            self._end = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._end.record()

    def land(self) -> list[SampledToken | None]:
        """Wait for the end of the step, not for steps behind it."""
        if self._end is not None:
            self._end.synchronize()
        return [token for drawing in self._drawings for token in drawing.tokens()]


class ModelRunner:
    """Runs steps on a model and its KV pool."""

    def __init__(
        self,
        model: Model,
        kv: Tensor,
        prefill_staging: PrefillStaging,
        decode_staging: DecodeStaging,
        threads: ComputeThreads,
    ) -> None:
        self._model = model
        self._kv = kv
        self._prefill_staging = prefill_staging
        self._decode_staging = decode_staging
        self._threads = threads
        # Two, because each keeps the parameters of its last batch, and the decode batch changes rarely.
        self._prompt_sampler, self._decode_sampler = (
            Sampler(model.config.vocab_size, kv.device) for _ in range(2)
        )
        self._drawn: Tensor | None = None
        """What the decode rows of the last step drew."""

    @torch.inference_mode()
    def launch(self, step: Step) -> LaunchedStep:
        """Queue the step and its draws; on a CPU, compute it."""
        drawings: list[Drawing] = []
        if step.copies:
            copy_blocks(self._kv, step.copies)
        if step.chunks:
            self._threads.use_for_prompts()
            logits = self._model.prefill(self._prefill_staging.pack(step.chunks, step.completed), self._kv)
            drawings += _draw(self._prompt_sampler, logits, step.completed)
        if step.decode:
            self._threads.use_for_decode(len(step.decode))
            batch = self._decode_staging.pack(step.decode, step.follows, self._drawn)
            ahead = None if step.follows is None else [draw is not None for draw in step.follows]
            decoded = _draw(self._decode_sampler, self._model.decode(batch, self._kv), step.decode, ahead)
            self._drawn = decoded[0].token_ids
            drawings += decoded
        return LaunchedStep(drawings, is_on_gpu=self._kv.is_cuda)


class SettledRunner:
    """A `StepRunner` for a device that computes behind the host: a launch that raises leaves nothing queued.

    The blocks of a failed step change their owner at once, and no kernel may still write into them then.
    """

    def __init__(self, runner: StepRunner, wait: Callable[[], None]) -> None:
        """`wait` returns when the device has done all that was queued, and raises when it is broken."""
        self._runner = runner
        self._wait = wait

    def launch(self, step: Step) -> Flight:
        """Begin a step."""
        try:
            return self._runner.launch(step)
        except Exception:
            self._wait()
            raise


def copy_blocks(kv: Tensor, copies: list[Copy]) -> None:
    """Duplicate blocks of the pool."""
    sources = to_device(torch.tensor([copy.source for copy in copies]), kv.device)
    targets = to_device(torch.tensor([copy.target for copy in copies]), kv.device)
    kv[targets] = kv[sources]


def _draw(
    sampler: Sampler, logits: Tensor, sequences: list[Sequence], ahead: list[bool] | None = None
) -> list[Drawing]:
    """Draw once for each choice of each sequence; row `i` of the logits is that of sequence `i`."""
    if not sequences:
        return []
    states = [state_of(s.request, choice) for s in sequences for choice in s.choices]
    if len(states) > len(sequences):
        repeated = chain.from_iterable([row] * len(s.choices) for row, s in enumerate(sequences))
        logits = logits[to_device(torch.tensor(list(repeated)), logits.device)]
    return [sampler.draw(logits, states, ahead)]


def state_of(request: Request, choice: int) -> SamplingState:
    """Return the sampling state of a choice, made at its first draw."""
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

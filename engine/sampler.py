"""Logits to tokens, for a whole batch at once.

Order of operations (as vLLM and OpenAI have it): log probabilities are reported from the raw logits; then
logit_bias, min_tokens and the penalties change them; greedy rows take the best (equal ones: the lowest id);
the others are divided by the temperature, filtered by min_p, top_k and top_p, and drawn from.
The engine loop calls it between a step and the next; it changes no state, the caller appends the tokens.
"""

import operator
from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from ..kernels.sampling import MAX_VOCAB, best_logprobs, best_tokens, draw, draw_filtered, token_weights
from .host_copy import HostCopy
from .messages import TokenLogprob, TopLogprob
from .penalties import adjust_logits
from .sampling_plan import DrawGroup, SamplingPlan, plan_batch
from .sampling_state import SamplingState

NO_TOKEN = -1
"""In a tensor of draws: the row's logits hold a NaN or +inf, or every token is at -inf."""


class SampledToken(msgspec.Struct, frozen=True, kw_only=True):
    """The next token of one sequence; `logprob` if its parameters ask for it. Samplers give these two."""

    token_id: int
    logprob: TokenLogprob | None
    then: tuple["SampledToken", ...] = ()
    """The tokens after it that the same step gave, because it had guessed right."""
    drafts: tuple[int, ...] = ()
    """Guesses at what follows all of these."""


class Drawing:
    """The next tokens of a batch, drawn on the device; the host learns them when it asks."""

    def __init__(self, token_ids: Tensor, logprobs: "_Logprobs | None") -> None:
        self.token_ids = token_ids
        """[B] int64, `NO_TOKEN` where none is possible: the input of a step that follows at once."""
        self._host_ids = HostCopy(token_ids)
        self._logprobs = logprobs

    def tokens(self) -> list[SampledToken | None]:
        """Wait for the draws; None where the logits allowed none."""
        token_ids: list[int] = self._host_ids.arrived().tolist()
        logprobs = {} if self._logprobs is None else self._logprobs.by_row(token_ids)
        return [
            None if token_id == NO_TOKEN else SampledToken(token_id=token_id, logprob=logprobs.get(row))
            for row, token_id in enumerate(token_ids)
        ]


class Sampler:
    """Chooses the next token of each sequence in a batch.

    The parameters of the last batch stay staged, so a decode batch that does not change costs little.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        if vocab_size > MAX_VOCAB:
            raise ValueError(f"vocab_size {vocab_size} is over the sampler's limit of {MAX_VOCAB}")
        self._vocab_size = vocab_size
        self._device = device
        self._plan = plan_batch([], vocab_size, device)

    @torch.inference_mode()
    def draw(
        self, logits: Tensor, states: Sequence[SamplingState], ahead: Sequence[bool] | None = None
    ) -> Drawing:
        """Draw the next token of each of `states`.

        logits  [B, V]  float32, B >= len(states); the rows after the last state are padding
        ahead   where true, the state lacks one token that was drawn but is not known yet
        """
        if logits.dtype is not torch.float32 or logits.shape[-1] != self._vocab_size:
            raise ValueError(
                f"logits are {logits.dtype} {list(logits.shape)}, not float32 [B, {self._vocab_size}]"
            )
        if len(states) > logits.shape[0]:
            raise ValueError(f"{len(states)} sequences, but logits of {logits.shape[0]} rows")
        plan = self._plan_for(states)
        raw = logits[: len(states)]
        token_ids = _choose(raw, plan, ahead)
        return Drawing(token_ids, _Logprobs(raw, token_ids, plan) if plan.reported else None)

    @torch.inference_mode()
    def guess(self, logits: Tensor, states: Sequence[SamplingState]) -> Tensor:
        """Return what `draw` would draw, `[len(states)]` int64: token 0 where that is none."""
        return _choose(logits[: len(states)], self._plan_for(states), None).clamp_min(0)

    def _plan_for(self, states: Sequence[SamplingState]) -> SamplingPlan:
        staged = self._plan.states
        if len(staged) != len(states) or not all(map(operator.is_, staged, states)):
            self._plan = plan_batch(states, self._vocab_size, self._device)
        return self._plan


def _choose(raw: Tensor, plan: SamplingPlan, ahead: Sequence[bool] | None) -> Tensor:
    bias = plan.bias_now()
    logits = adjust_logits(raw, bias, plan.penalised) if bias.rows or plan.penalised else raw
    tokens, is_possible = _best(logits)
    for group in plan.groups:
        tokens[group.rows] = _draw_group(logits, group, ahead)
    return tokens.where(is_possible, NO_TOKEN)


def _best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest id of each row's largest logit, and whether that is a number at all."""
    if logits.is_cuda:
        best, tokens = best_tokens(logits)
        return tokens, best.isfinite()
    rows = logits.numpy()  # takes a tenth of the time of torch's search
    tokens = rows.argmax(-1)
    best = rows[np.arange(len(rows)), tokens]
    return torch.from_numpy(tokens), torch.from_numpy(np.isfinite(best))


def _draw_group(logits: Tensor, group: DrawGroup, ahead: Sequence[bool] | None) -> Tensor:
    selected = logits if len(group.rows) == len(logits) else logits[group.rows]
    weights = token_weights(selected, group.temperature, group.min_p)
    uniforms = group.next_uniforms(ahead)
    if not group.filtered:
        return draw(weights, uniforms)
    return draw_filtered(weights, uniforms, group.top_k, group.top_p, largest_k=group.largest_k)


class _Logprobs:
    """Log probabilities of the rows that want them."""

    def __init__(self, raw: Tensor, token_ids: Tensor, plan: SamplingPlan) -> None:
        logprobs = raw[plan.reported_rows].log_softmax(dim=-1)
        chosen = token_ids[plan.reported_rows].clamp_min(0)
        top_ids, top_logprobs = best_logprobs(logprobs, min(plan.reported_top, raw.shape[-1]))
        self._plan = plan
        self._chosen = HostCopy(logprobs.gather(-1, chosen[:, None]).squeeze(-1))
        self._top_ids, self._top_logprobs = HostCopy(top_ids), HostCopy(top_logprobs)

    def by_row(self, token_ids: list[int]) -> dict[int, TokenLogprob]:
        """Wait for them; return them by batch row."""
        plan = self._plan
        return {
            row: TokenLogprob(
                token_id=token_ids[row],
                logprob=logprob,
                top=_candidates(ids, values, plan.states[row].params.logprobs or 0),
            )
            for row, logprob, ids, values in zip(
                plan.reported,
                self._chosen.arrived().tolist(),
                self._top_ids.arrived().tolist(),
                self._top_logprobs.arrived().tolist(),
                strict=True,
            )
        }


def _candidates(ids: list[int], logprobs: list[float], count: int) -> list[TopLogprob]:
    """Return the first `count`, without tokens that the model excludes (-inf has no JSON spelling)."""
    return [
        TopLogprob(token_id=token_id, logprob=logprob)
        for token_id, logprob in zip(ids[:count], logprobs[:count], strict=True)
        if logprob != float("-inf")
    ]

"""Logits to tokens, for a whole batch at once.

Order of operations (as vLLM and OpenAI have it): log probabilities are reported from the raw logits; then
logit_bias, min_tokens and the penalties change them; greedy rows take the best (equal ones: the lowest id);
the others are divided by the temperature, filtered by min_p, top_k and top_p, and drawn from.
The engine loop calls it between a step and the next; it changes no state, the caller appends the tokens.
"""

import operator
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from ..kernels.sampling import MAX_VOCAB, best_logprobs, draw, draw_filtered, token_weights
from .messages import TokenLogprob, TopLogprob
from .penalties import adjust_logits
from .sampling_plan import DrawGroup, SamplingPlan, plan_batch
from .sampling_state import SamplingState


class NonFiniteLogitsError(Exception):
    """No token can be chosen in `rows`: their logits hold a NaN or +inf, or every token is at -inf."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(f"the logits of batch rows {rows} have no finite maximum")
        self.rows = rows


class SampledToken(msgspec.Struct, frozen=True, kw_only=True):
    """The next token of one sequence; `logprob` if its parameters ask for it."""

    token_id: int
    logprob: TokenLogprob | None


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
    def sample(self, logits: Tensor, states: Sequence[SamplingState]) -> list[SampledToken]:
        """Return the next token of each of `states`.

        logits  [B, V]  float32, B >= len(states); the rows after the last state are padding

        Raises `NonFiniteLogitsError` with the rows to blame before anything was decided: the others can be
        sampled again without them, and get the tokens they would have got.
        """
        if logits.dtype is not torch.float32 or logits.shape[-1] != self._vocab_size:
            raise ValueError(
                f"logits are {logits.dtype} {list(logits.shape)}, not float32 [B, {self._vocab_size}]"
            )
        if len(states) > logits.shape[0]:
            raise ValueError(f"{len(states)} sequences, but logits of {logits.shape[0]} rows")
        if not states:
            return []
        plan = self._plan_for(states)
        raw = logits[: len(states)]
        token_ids = _choose(raw, plan)
        logprobs = _report(raw, token_ids, plan)
        return [
            SampledToken(token_id=token_id, logprob=logprobs.get(row))
            for row, token_id in enumerate(token_ids)
        ]

    def _plan_for(self, states: Sequence[SamplingState]) -> SamplingPlan:
        staged = self._plan.states
        if len(staged) != len(states) or not all(map(operator.is_, staged, states)):
            self._plan = plan_batch(states, self._vocab_size, self._device)
        return self._plan


def _choose(raw: Tensor, plan: SamplingPlan) -> list[int]:
    bias = plan.bias_now()
    logits = adjust_logits(raw, bias, plan.penalised) if bias.rows or plan.penalised else raw
    best, tokens = logits.max(dim=-1)
    for group in plan.groups:
        tokens[group.rows] = _draw_group(logits, group)
    chosen: list[int] = torch.where(best.isfinite(), tokens, -1).tolist()
    if min(chosen) < 0:
        raise NonFiniteLogitsError([row for row, token in enumerate(chosen) if token < 0])
    return chosen


def _draw_group(logits: Tensor, group: DrawGroup) -> Tensor:
    selected = logits if len(group.rows) == len(logits) else logits[group.rows]
    weights = token_weights(selected, group.temperature, group.min_p)
    if not group.filtered:
        return draw(weights, group.next_uniforms())
    return draw_filtered(weights, group.next_uniforms(), group.top_k, group.top_p, largest_k=group.largest_k)


def _report(raw: Tensor, token_ids: list[int], plan: SamplingPlan) -> dict[int, TokenLogprob]:
    """Return the log probabilities of the rows that want them, by row."""
    if not plan.reported:
        return {}
    logprobs = raw[plan.reported_rows].log_softmax(dim=-1)
    chosen = torch.tensor([token_ids[row] for row in plan.reported], device=raw.device)
    chosen_logprobs = logprobs.gather(-1, chosen[:, None]).squeeze(-1).tolist()
    top_ids, top_logprobs = best_logprobs(logprobs, min(plan.reported_top, raw.shape[-1]))
    return {
        row: TokenLogprob(
            token_id=token_ids[row],
            logprob=logprob,
            top=_candidates(ids, values, plan.states[row].params.logprobs or 0),
        )
        for row, logprob, ids, values in zip(
            plan.reported, chosen_logprobs, top_ids.tolist(), top_logprobs.tolist(), strict=True
        )
    }


def _candidates(ids: list[int], logprobs: list[float], count: int) -> list[TopLogprob]:
    """Return the first `count`, without tokens that the model excludes (-inf has no JSON spelling)."""
    return [
        TopLogprob(token_id=token_id, logprob=logprob)
        for token_id, logprob in zip(ids[:count], logprobs[:count], strict=True)
        if logprob != float("-inf")
    ]

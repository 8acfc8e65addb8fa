"""What a batch of sequences asks of the sampler, staged as tensors for as long as the batch is the same.

`Sampler` makes a plan when the sequences of a step differ from those of the step before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .host_copy import to_device
from .penalties import Bias, Penalised
from .sampling_state import SamplingState, uniforms


@dataclass(frozen=True, slots=True)
class DrawGroup:
    """Rows that draw, all with or all without top-k and top-p."""

    states: list[SamplingState]
    keys: npt.NDArray[np.uint64]
    batch_rows: list[int]
    rows: Tensor
    """[R] int64, the same"""
    temperature: Tensor
    """[R] float64"""
    min_p: Tensor | None
    """[R] float64; None when no row has one"""
    top_k: Tensor
    """[R] int64, the vocabulary's size where there is no limit"""
    top_p: Tensor
    """[R] float64"""
    largest_k: int
    """The largest top_k smaller than the vocabulary, 0 if there is none."""
    filtered: bool

    def next_uniforms(self, ahead: Sequence[bool] | None = None) -> Tensor:
        """Return [R] float64, each row's number for its next token; one further in batch rows `ahead`."""
        indices = np.fromiter((state.generated for state in self.states), np.uint64, len(self.states))
        if ahead is not None:
            indices += np.fromiter((ahead[row] for row in self.batch_rows), np.uint64, len(self.states))
        return to_device(torch.from_numpy(uniforms(self.keys, indices)), self.rows.device)


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """The rows of one batch, sorted by what they need."""

    states: list[SamplingState]
    bias: Bias
    """Entries of the clients' logit_bias."""
    penalised: list[Penalised]
    delayed: list[int]
    """Rows with min_tokens."""
    groups: list[DrawGroup]
    reported: list[int]
    """Rows with logprobs."""
    reported_rows: Tensor
    """[len(reported)] int64"""
    reported_top: int
    """The most candidates that any of them wants."""

    def bias_now(self) -> Bias:
        """Return the bias of the next draw: the clients', and -inf on stop tokens that may not come yet."""
        masked = [
            (row, token_id)
            for row in self.delayed
            if self.states[row].must_not_stop
            for token_id in self.states[row].params.stop_token_ids
        ]
        if not masked:
            return self.bias
        return Bias(
            rows=self.bias.rows + [row for row, _ in masked],
            token_ids=self.bias.token_ids + [token_id for _, token_id in masked],
            values=self.bias.values + [float("-inf")] * len(masked),
        )


def plan_batch(states: Sequence[SamplingState], vocab_size: int, device: torch.device) -> SamplingPlan:
    """Sort the rows of a batch by what they need and stage their parameters on `device`."""
    drawn = [row for row, state in enumerate(states) if not state.draws_greedily]
    filtered = [row for row in drawn if _is_filtered(states[row], vocab_size)]
    plain = sorted(set(drawn) - set(filtered))
    reported = [row for row, state in enumerate(states) if state.params.logprobs is not None]
    return SamplingPlan(
        states=list(states),
        bias=_client_bias(states),
        penalised=[
            Penalised(row, state.params, state.counts)
            for row, state in enumerate(states)
            if state.counts is not None
        ],
        delayed=[row for row, state in enumerate(states) if state.must_not_stop],
        groups=[_stage(states, rows, vocab_size, device) for rows in (plain, filtered) if rows],
        reported=reported,
        reported_rows=to_device(torch.tensor(reported, dtype=torch.int64), device),
        reported_top=max((states[row].params.logprobs or 0 for row in reported), default=0),
    )


def _client_bias(states: Sequence[SamplingState]) -> Bias:
    entries = [
        (row, token_id, value)
        for row, state in enumerate(states)
        for token_id, value in state.params.logit_bias.items()
    ]
    return Bias(
        rows=[row for row, _, _ in entries],
        token_ids=[token_id for _, token_id, _ in entries],
        values=[value for _, _, value in entries],
    )


def _limit(state: SamplingState, vocab_size: int) -> int:
    top_k = state.params.top_k
    return vocab_size if top_k is None else min(top_k, vocab_size)


def _is_filtered(state: SamplingState, vocab_size: int) -> bool:
    return state.params.top_p < 1.0 or _limit(state, vocab_size) < vocab_size


def _stage(
    states: Sequence[SamplingState], rows: list[int], vocab_size: int, device: torch.device
) -> DrawGroup:
    members = [states[row] for row in rows]
    limits = [_limit(state, vocab_size) for state in members]
    min_p = [state.params.min_p for state in members]

    def floats(values: list[float]) -> Tensor:
        return to_device(torch.tensor(values, dtype=torch.float64), device)

    return DrawGroup(
        states=members,
        keys=np.array([state.key for state in members], dtype=np.uint64),
        batch_rows=rows,
        rows=to_device(torch.tensor(rows), device),
        temperature=floats([state.params.temperature for state in members]),
        min_p=floats(min_p) if any(min_p) else None,
        top_k=to_device(torch.tensor(limits), device),
        top_p=floats([state.params.top_p for state in members]),
        largest_k=max((limit for limit in limits if limit < vocab_size), default=0),
        filtered=_is_filtered(members[0], vocab_size),
    )

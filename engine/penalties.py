"""What has to be added to or scaled in the logits of a batch, as flat lists of the touched entries.

`TokenCounts` is kept by a sequence's sampling state, `adjust_logits` is called by the sampler. The work is
proportional to the distinct tokens of the penalised sequences, never to the vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .host_copy import to_device
from .messages import SamplingParams


class TokenCounts:
    """The distinct tokens of a sequence and how often each was generated."""

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        ids = np.unique(np.asarray(prompt_token_ids, dtype=np.int64))
        self._used = len(ids)
        self._ids = np.zeros(max(64, 2 * self._used), dtype=np.int64)
        self._ids[: self._used] = ids
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._position = {int(token): position for position, token in enumerate(ids)}

    def add(self, token_id: int) -> None:
        """Count one generated token."""
        position = self._position.setdefault(token_id, self._used)
        if position == self._used:
            self._reserve()
            self._ids[position] = token_id
            self._used += 1
        self._counts[position] += 1

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Distinct tokens of prompt (if it counts) and output."""
        return self._ids[: self._used]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """How often each of `ids` was generated; 0 for those that stand in the prompt only."""
        return self._counts[: self._used]

    def _reserve(self) -> None:
        if self._used == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])


class Penalised(NamedTuple):
    """One row of the batch that pays penalties."""

    row: int
    params: SamplingParams
    counts: TokenCounts


class Bias(NamedTuple):
    """Additions to single logits, entry by entry."""

    rows: list[int]
    token_ids: list[int]
    values: list[float]


def adjust_logits(logits: Tensor, bias: Bias, penalised: Sequence[Penalised]) -> Tensor:
    """Return a copy of `logits` [R, V] with `bias` added, then the penalties applied.

    Repetition (Keskar et al. 2019, CTRL) divides positive and multiplies negative logits of every token seen.
    Frequency and presence (OpenAI) count generated tokens only:
    `logit - frequency * count - presence * [count > 0]`.
    """
    adjusted = logits.clone()
    flat = adjusted.view(-1)
    vocab = logits.shape[-1]
    if bias.rows:
        entries = torch.tensor(bias.rows) * vocab + torch.tensor(bias.token_ids)
        values = torch.tensor(bias.values, dtype=torch.float32)
        entries, values = (to_device(tensor, logits.device) for tensor in (entries, values))
        flat.index_put_((entries,), values, accumulate=True)
    if penalised:
        _apply_penalties(flat, penalised, vocab)
    return adjusted


def _apply_penalties(flat: Tensor, penalised: Sequence[Penalised], vocab: int) -> None:
    entries = np.concatenate([item.row * vocab + item.counts.ids for item in penalised])
    scales = np.concatenate(
        [np.full(len(item.counts.ids), item.params.repetition_penalty, np.float32) for item in penalised]
    )
    offsets = np.concatenate([_subtracted(item) for item in penalised])
    index, scale, offset = (
        to_device(torch.from_numpy(each), flat.device) for each in (entries, scales, offsets)
    )
    before = flat[index]
    scaled = torch.where(before > 0, before / scale, before * scale)
    flat[index] = scaled - offset


def _subtracted(item: Penalised) -> npt.NDArray[np.float32]:
    counts = item.counts.counts
    frequency = np.float32(item.params.frequency_penalty)
    presence = np.float32(item.params.presence_penalty)
    return frequency * counts + presence * (counts > 0).astype(np.float32)

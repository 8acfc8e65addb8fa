"""What travels between the stages of a mixture-of-experts layer.

    prepare   tokens and their routing       -> rows grouped by expert
    experts   rows grouped by expert         -> the experts' outputs, row for row
    finalize  outputs and routing            -> one sum a token

Two formats of rows. The contiguous one suits prefill and one rank: all rows in one tensor, expert after
expert, as many as there are. The batched one suits decode: a fixed number of rows for each expert, of which
the first few count, so that no shape depends on data and a CUDA graph can hold the layer. Router weights are
applied by `finalize` and by no other stage.
"""

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fp8 import Quantised, dequantise_groups


class ActivationFormat(enum.Enum):
    """How rows lie before and behind the experts."""

    CONTIGUOUS = "contiguous"
    BATCHED = "batched"


@dataclass(frozen=True, slots=True)
class ContiguousRows:
    """Token rows grouped by expert; only experts with rows appear."""

    rows: Tensor | Quantised
    """[n, hidden]; quantised where they travelled so"""
    experts: list[int]
    """Local index of each expert that has rows, ascending unless a single token was routed."""
    counts: list[int]
    """Rows of each of those experts; their sum is n."""
    positions: Tensor | None
    """[tokens, top_k] int64, the row of each routed pair, n for pairs without one. None: in order."""


@dataclass(frozen=True, slots=True)
class BatchedRows:
    """Token rows in a fixed frame: the first `counts[e]` rows of expert `e` count, the others are garbage."""

    rows: Tensor | Quantised
    """[owned experts, max rows, hidden]; quantised where they travelled so"""
    counts: Tensor
    """[owned experts] int32, on the device of the rows"""


def plain(rows: Tensor | Quantised, dtype: torch.dtype) -> Tensor:
    """Return rows for experts whose weights are not quantised; plain ones as they are."""
    return rows if isinstance(rows, Tensor) else dequantise_groups(*rows).to(dtype)

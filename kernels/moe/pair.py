"""The two outer stages as one exchangeable pair: rows to the experts, and sums back.

Both start their transfer and return at once; the caller decides what to compute meanwhile. A pair may keep
buffers, so each prepared batch is finalised exactly once, and in the order of preparation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from .rows import ActivationFormat, BatchedRows, ContiguousRows

T = TypeVar("T")
Rows = TypeVar("Rows", ContiguousRows, BatchedRows)

Pending = Callable[[], T]
"""A result on its way: calling it waits for the transfer and returns the result. Called once."""


@dataclass(frozen=True, slots=True)
class Prepared(Generic[Rows]):
    """Rows at their experts, and the way back."""

    rows: Rows
    finalize: Callable[[Tensor], Pending[Tensor]]
    """Takes the experts' outputs, row for row; its result is `[tokens, hidden]`, weighted and summed."""


class PrepareFinalize(Protocol[Rows]):
    """Where rows travel between attention and experts."""

    @property
    def format(self) -> ActivationFormat:
        """How rows lie at the experts; the experts stage must be of the same format."""
        ...

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[Rows]]:
        """Start to carry each token's row to the ranks of its experts. All ranks of the group must call.

        x        [tokens, hidden]
        ids      [tokens, top_k]   int64, experts counted over all ranks; -1 routes nowhere
        weights  [tokens, top_k]   float32
        """
        ...

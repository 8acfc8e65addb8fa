"""What pairs have in common that carry tokens whole: only the way there and back is their own.

Tokens arrive with the ids and weights of their experts. What follows is the same whichever way they came:
rows grouped in the pair's format, the experts, weighted sums (`prepare`). Where a CPU has all of that as one
operation in C++, the backend takes the tokens as they came instead (`carry`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from .collectives import Collectives
from .finalize import finalize_batched, finalize_contiguous
from .frames import Frames
from .pair import Pending, Prepared, Rows
from .prepare import prepare_batched, prepare_contiguous
from .rows import ActivationFormat, BatchedRows, ContiguousRows
from .wire import TokenRows, to_local

Sums = Callable[[Tensor], Tensor]
"""Takes the experts' outputs, row for row, and gives one sum a token"""


@dataclass(frozen=True, slots=True)
class Carried:
    """Tokens at a rank that owns experts of theirs, and the way back."""

    tokens: TokenRows
    """Ids of experts of all ranks"""
    send_back: Callable[[Tensor], Pending[Tensor]]
    """Takes what this rank's experts add to each token, `[tokens, hidden]`; its result is what all add to
    the tokens that were sent."""


class TokenPair(ABC, Generic[Rows]):
    """A prepare/finalize pair that carries tokens whole."""

    format: ActivationFormat

    def __init__(self, collectives: Collectives, experts_per_rank: int) -> None:
        self._collectives = collectives
        self._experts = experts_per_rank

    @abstractmethod
    def carry(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Carried]:
        """Start to carry tokens to the ranks of their experts, as `prepare` does."""

    @abstractmethod
    def _group(self, tokens: TokenRows) -> tuple[Rows, Sums]:
        """Group tokens by expert; ids count from this rank's first expert, others are -1."""

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[Rows]]:
        """Start to carry each token's row to the ranks of its experts."""
        carrying = self.carry(x, ids, weights)

        def receive() -> Prepared[Rows]:
            carried = carrying()
            came = carried.tokens
            local = to_local(came.ids, self._collectives.rank, self._experts)
            rows, sums = self._group(TokenRows(came.x, local, came.weights))
            return Prepared(rows, lambda outputs: carried.send_back(sums(outputs)))

        return receive


class ContiguousTokens(TokenPair[ContiguousRows]):
    """As many rows as there are."""

    format = ActivationFormat.CONTIGUOUS

    def _group(self, tokens: TokenRows) -> tuple[ContiguousRows, Sums]:
        routed = prepare_contiguous(tokens.x, tokens.ids, range(self._experts))
        return routed, lambda outputs: finalize_contiguous(outputs, routed, tokens.weights)


class BatchedTokens(TokenPair[BatchedRows]):
    """A frame of fixed size for each expert."""

    format = ActivationFormat.BATCHED

    def __init__(self, collectives: Collectives, experts_per_rank: int) -> None:
        super().__init__(collectives, experts_per_rank)
        self._frames = Frames()

    def _group(self, tokens: TokenRows) -> tuple[BatchedRows, Sums]:
        rows, positions = prepare_batched(tokens.x, tokens.ids, self._experts, self._frames)
        return rows, lambda outputs: finalize_batched(outputs, positions, tokens.weights)

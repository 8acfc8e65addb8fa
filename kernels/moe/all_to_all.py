"""The backend that sends a token only to the ranks that own experts of its.

prepare   one row for each (token, rank) pair, whatever the number of its experts there
finalize  weight and sum locally, one row for each pair back, add up at the token's rank
"""

import torch
from torch import Tensor

from .collectives import Collectives
from .finalize import finalize_batched, finalize_contiguous
from .frames import Frames
from .pair import Pending, Prepared
from .prepare import prepare_batched, prepare_contiguous
from .rows import ActivationFormat, BatchedRows, ContiguousRows
from .wire import TokenRows, pack, to_local, unpack


class AllToAllContiguous:
    """Exactly the rows that are needed travel; how many is exchanged first."""

    format = ActivationFormat.CONTIGUOUS

    def __init__(self, collectives: Collectives, experts_per_rank: int) -> None:
        self._collectives = collectives
        self._experts = experts_per_rank

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[ContiguousRows]]:
        """Start to send each token's row to the ranks it is routed to."""
        goes_to = _ranks_of(ids, self._experts, self._collectives.size)
        tokens = goes_to.t().nonzero()[:, 1]
        sent = goes_to.sum(0).tolist()
        received = self._collectives.exchange_ints(sent)
        packed = pack(TokenRows(x, ids, weights)).index_select(0, tokens)
        arriving = self._collectives.all_to_all(packed, sent, received)

        def receive() -> Prepared[ContiguousRows]:
            came = unpack(arriving(), x.shape[1], ids.shape[1], x.dtype)
            local = to_local(came.ids, self._collectives.rank, self._experts)
            routed = prepare_contiguous(came.x, local, range(self._experts))

            def finalize(outputs: Tensor) -> Pending[Tensor]:
                sums = finalize_contiguous(outputs, routed, came.weights)
                returning = self._collectives.all_to_all(sums, received, sent)
                return lambda: torch.zeros_like(x).index_add_(0, tokens, returning())

            return Prepared(routed, finalize)

        return receive


class AllToAllBatched:
    """Every rank has a slot for each token of every other rank, used or not: no shape depends on routing.

    All ranks bring the same number of tokens, padding included.
    """

    format = ActivationFormat.BATCHED

    def __init__(self, collectives: Collectives, experts_per_rank: int) -> None:
        self._collectives = collectives
        self._experts = experts_per_rank
        self._frames = Frames()

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[BatchedRows]]:
        """Start to fill all slots."""
        tokens, size = x.shape[0], self._collectives.size
        packed = pack(TokenRows(x, ids, weights))
        arriving = self._collectives.all_to_all(packed.repeat(size, 1))

        def receive() -> Prepared[BatchedRows]:
            came = unpack(arriving(), x.shape[1], ids.shape[1], x.dtype)
            local = to_local(came.ids, self._collectives.rank, self._experts)
            rows, positions = prepare_batched(came.x, local, self._experts, self._frames)

            def finalize(outputs: Tensor) -> Pending[Tensor]:
                returning = self._collectives.all_to_all(finalize_batched(outputs, positions, came.weights))
                return lambda: returning().view(size, tokens, x.shape[1]).sum(0)

            return Prepared(rows, finalize)

        return receive


def _ranks_of(ids: Tensor, experts_per_rank: int, ranks: int) -> Tensor:
    """Whether each token has experts on each rank: `[tokens, ranks]` bool."""
    owner = ids.div(experts_per_rank, rounding_mode="floor")  # -1 stays below all ranks
    return (owner.unsqueeze(-1) == torch.arange(ranks, device=ids.device)).any(1)

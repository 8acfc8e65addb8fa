"""The backend that sends a token only to the ranks that own experts of its.

prepare   one row for each (token, rank) pair, whatever the number of its experts there
finalize  weight and sum locally, one row for each pair back, add up at the token's rank
"""

import torch
from torch import Tensor

from .pair import Pending
from .token_pair import BatchedTokens, Carried, ContiguousTokens
from .wire import TokenRows, pack, unpack


class AllToAllContiguous(ContiguousTokens):
    """Exactly the rows that are needed travel; how many is exchanged first."""

    def carry(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Carried]:
        """Start to send each token's row to the ranks it is routed to."""
        goes_to = _ranks_of(ids, self._experts, self._collectives.size)
        tokens = goes_to.t().nonzero()[:, 1]
        sent = goes_to.sum(0).tolist()
        received = self._collectives.exchange_ints(sent)
        packed = pack(TokenRows(x, ids, weights)).index_select(0, tokens)
        arriving = self._collectives.all_to_all(packed, sent, received)

        def send_back(sums: Tensor) -> Pending[Tensor]:
            returning = self._collectives.all_to_all(sums, received, sent)
            return lambda: torch.zeros_like(x).index_add_(0, tokens, returning())

        return lambda: Carried(unpack(arriving(), x.shape[1], ids.shape[1], x.dtype), send_back)


class AllToAllBatched(BatchedTokens):
    """Every rank has a slot for each token of every other rank, used or not: no shape depends on routing.

    All ranks bring the same number of tokens, padding included.
    """

    def carry(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Carried]:
        """Start to fill all slots: with fixed shapes, each rank is sent all tokens."""
        tokens, size = x.shape[0], self._collectives.size
        arriving = self._collectives.all_gather(pack(TokenRows(x, ids, weights)))

        def send_back(sums: Tensor) -> Pending[Tensor]:
            returning = self._collectives.all_to_all(sums)
            return lambda: returning().view(size, tokens, x.shape[1]).sum(0)

        return lambda: Carried(unpack(arriving(), x.shape[1], ids.shape[1], x.dtype), send_back)


def _ranks_of(ids: Tensor, experts_per_rank: int, ranks: int) -> Tensor:
    """Whether each token has experts on each rank: `[tokens, ranks]` bool."""
    owner = ids.div(experts_per_rank, rounding_mode="floor")  # -1 stays below all ranks
    return (owner.unsqueeze(-1) == torch.arange(ranks, device=ids.device)).any(1)

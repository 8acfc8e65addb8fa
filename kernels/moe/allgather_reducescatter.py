"""The backend that works everywhere: every rank sees all tokens, and what its experts add is summed up.

    prepare   all-gather tokens and routing over the group
    finalize  weight and sum locally, then reduce-scatter

It moves `ranks` times the tokens, whatever the routing; with few ranks or a fast network that is little, and
two collectives are all it takes.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from .pair import Pending
from .token_pair import BatchedTokens, Carried, ContiguousTokens
from .wire import TokenRows, pack, unpack


class AllGatherContiguous(ContiguousTokens):
    """Ranks may bring different numbers of tokens; the numbers are exchanged first."""

    def carry(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Carried]:
        """Start to gather all tokens, each rank's padded to the longest."""
        counts = self._collectives.gather_int(x.shape[0])
        longest = max(counts)
        own = pack(TokenRows(x, ids, weights))
        if x.shape[0] < longest:
            own = pad(own, (0, 0, 0, longest - x.shape[0]))
        gathered = self._collectives.all_gather(own)

        def send_back(sums: Tensor) -> Pending[Tensor]:
            reduced = self._collectives.reduce_scatter(_with_padding(sums, counts))
            return lambda: reduced()[: x.shape[0]]

        def receive() -> Carried:
            came = _without_padding(gathered(), counts)
            return Carried(unpack(came, x.shape[1], ids.shape[1], x.dtype), send_back)

        return receive


class AllGatherBatched(BatchedTokens):
    """All ranks bring the same number of tokens, padding included: every shape is known beforehand."""

    def carry(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Carried]:
        """Start to gather all tokens."""
        gathered = self._collectives.all_gather(pack(TokenRows(x, ids, weights)))
        send_back = self._collectives.reduce_scatter
        return lambda: Carried(unpack(gathered(), x.shape[1], ids.shape[1], x.dtype), send_back)


def _without_padding(gathered: Tensor, counts: list[int]) -> Tensor:
    """Keep each rank's first rows, as many as it has."""
    if min(counts) == max(counts):
        return gathered
    return gathered.index_select(0, _live_rows(counts, gathered.device))


def _with_padding(sums: Tensor, counts: list[int]) -> Tensor:
    """Undo `_without_padding`; what it dropped is zero."""
    if min(counts) == max(counts):
        return sums
    padded = sums.new_zeros(max(counts) * len(counts), sums.shape[1])
    return padded.index_copy_(0, _live_rows(counts, sums.device), sums)


def _live_rows(counts: list[int], device: torch.device) -> Tensor:
    """Rows of the gathered tokens that are no padding."""
    longest = max(counts)
    ranges = [torch.arange(rank * longest, rank * longest + count) for rank, count in enumerate(counts)]
    return torch.cat(ranges).to(device)

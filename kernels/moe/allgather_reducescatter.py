"""The backend that works everywhere: every rank sees all tokens, and what its experts add is summed up.

    prepare   all-gather tokens and routing over the group
    finalize  weight and sum locally, then reduce-scatter

It moves `ranks` times the tokens, whatever the routing; with few ranks or a fast network that is little, and
two collectives are all it takes.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from .collectives import Collectives
from .finalize import finalize_batched, finalize_contiguous
from .frames import Frames
from .pair import Pending, Prepared
from .prepare import prepare_batched, prepare_contiguous
from .rows import ActivationFormat, BatchedRows, ContiguousRows
from .wire import TokenRows, pack, to_local, unpack


class AllGatherContiguous:
    """Ranks may bring different numbers of tokens; the numbers are exchanged first."""

    format = ActivationFormat.CONTIGUOUS

    def __init__(self, collectives: Collectives, experts_per_rank: int) -> None:
        self._collectives = collectives
        self._experts = experts_per_rank

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[ContiguousRows]]:
        """Start to gather all tokens, each rank's padded to the longest."""
        counts = self._collectives.gather_int(x.shape[0])
        longest = max(counts)
        own = pack(TokenRows(x, ids, weights))
        if x.shape[0] < longest:
            own = pad(own, (0, 0, 0, longest - x.shape[0]))
        gathered = self._collectives.all_gather(own)

        def receive() -> Prepared[ContiguousRows]:
            tokens = unpack(_without_padding(gathered(), counts), x.shape[1], ids.shape[1], x.dtype)
            local = to_local(tokens.ids, self._collectives.rank, self._experts)
            routed = prepare_contiguous(tokens.x, local, range(self._experts))
            return Prepared(routed, lambda outputs: self._finalize(outputs, routed, tokens.weights, counts))

        return receive

    def _finalize(
        self, outputs: Tensor, routed: ContiguousRows, weights: Tensor, counts: list[int]
    ) -> Pending[Tensor]:
        sums = finalize_contiguous(outputs, routed, weights)
        reduced = self._collectives.reduce_scatter(_with_padding(sums, counts))
        own = counts[self._collectives.rank]
        return lambda: reduced()[:own]


class AllGatherBatched:
    """All ranks bring the same number of tokens, padding included: every shape is known beforehand."""

    format = ActivationFormat.BATCHED

    def __init__(self, collectives: Collectives, experts_per_rank: int) -> None:
        self._collectives = collectives
        self._experts = experts_per_rank
        self._frames = Frames()

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[BatchedRows]]:
        """Start to gather all tokens."""
        gathered = self._collectives.all_gather(pack(TokenRows(x, ids, weights)))

        def receive() -> Prepared[BatchedRows]:
            tokens = unpack(gathered(), x.shape[1], ids.shape[1], x.dtype)
            local = to_local(tokens.ids, self._collectives.rank, self._experts)
            rows, positions = prepare_batched(tokens.x, local, self._experts, self._frames)
            return Prepared(rows, lambda outputs: self._finalize(outputs, positions, tokens.weights))

        return receive

    def _finalize(self, outputs: Tensor, positions: Tensor, weights: Tensor) -> Pending[Tensor]:
        return self._collectives.reduce_scatter(finalize_batched(outputs, positions, weights))


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

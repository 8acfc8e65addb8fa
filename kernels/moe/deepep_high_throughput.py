"""DeepEP's normal kernels: one row for each (token, rank), exact sizes, for prompts.

    prepare   quantise (FP8 only), count, dispatch; the CPU waits for the counts
    finalize  weight and sum locally, because DeepEP's combine adds rows up as they are

The rows that arrive carry local expert ids, -1 for experts of other ranks.
"""

from torch import Tensor

from ..fp8 import quantise_groups
from .deepep import Event, SharedBuffer, check_carried
from .finalize import finalize_contiguous
from .pair import Pending, Prepared
from .prepare import prepare_contiguous
from .rows import ActivationFormat, ContiguousRows


class DeepEpHighThroughput:
    """Prepare and finalize over a buffer's normal kernels."""

    format = ActivationFormat.CONTIGUOUS

    def __init__(self, buffer: SharedBuffer, num_experts: int, experts_per_rank: int, *, fp8: bool) -> None:
        self._shared = buffer
        self._num_experts = num_experts
        self._experts = experts_per_rank
        self._fp8 = fp8

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[ContiguousRows]]:
        """Start the dispatch."""
        check_carried(x)
        buffer = self._shared.normal()
        per_rank, per_rdma_rank, per_expert, in_rank, counted = buffer.get_dispatch_layout(
            ids, self._num_experts, **self._behind(self._shared.capture())
        )
        came, came_ids, came_weights, _, handle, event = buffer.dispatch(
            quantise_groups(x) if self._fp8 else x.contiguous(),
            num_tokens_per_rank=per_rank,
            num_tokens_per_rdma_rank=per_rdma_rank,
            is_token_in_rank=in_rank,
            num_tokens_per_expert=per_expert,
            topk_idx=ids,
            topk_weights=weights,
            **self._behind(counted),
        )

        def receive() -> Prepared[ContiguousRows]:
            event.current_stream_wait()
            routed = prepare_contiguous(came, came_ids, range(self._experts))

            def finalize(outputs: Tensor) -> Pending[Tensor]:
                sums = finalize_contiguous(outputs, routed, came_weights)
                return self._combine(sums, handle)

            return Prepared(routed, finalize)

        return receive

    def _combine(self, sums: Tensor, handle: object) -> Pending[Tensor]:
        buffer = self._shared.normal()
        combined, _, event = buffer.combine(sums, handle, **self._behind(self._shared.capture()))

        def receive() -> Tensor:
            event.current_stream_wait()
            out: Tensor = combined
            return out

        return receive

    @staticmethod
    def _behind(event: Event) -> dict[str, object]:
        """Run on the communication stream behind `event`, without holding up the compute stream."""
        return {"previous_event": event, "async_finish": True, "allocate_on_comm_stream": True}

"""DeepEP's low-latency kernels: fixed frames, receive hooks, no count ever on the CPU; for decode.

    prepare   dispatch (which quantises, if asked to); the hook receives
    finalize  combine, which applies the router weights where it adds up; the hook receives

A buffer holds the results of two calls. The rows of a dispatch are read by the experts before its combine is
issued, so two batches may be in flight, not three.
"""

from collections.abc import Callable

from torch import Tensor

from .deepep import DeepEpError, SharedBuffer, check_carried, check_low_latency
from .pair import Pending, Prepared
from .rows import ActivationFormat, BatchedRows


class DeepEpLowLatency:
    """Prepare and finalize over a buffer's low-latency kernels."""

    format = ActivationFormat.BATCHED

    def __init__(
        self,
        buffer: SharedBuffer,
        *,
        num_experts: int,
        ranks: int,
        hidden: int,
        top_k: int,
        max_tokens: int,
        fp8: bool,
    ) -> None:
        """Take the shape of the layers; `max_tokens` is the most that any rank brings, alike on all."""
        check_low_latency(hidden, top_k, max_tokens, num_experts, ranks)
        self._shared = buffer
        self._shape = (max_tokens, hidden, num_experts)
        self._fp8 = fp8

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[BatchedRows]]:
        """Issue the dispatch."""
        check_carried(x)
        max_tokens, _, num_experts = self._shape
        if x.shape[0] > max_tokens:
            raise DeepEpError(f"{x.shape[0]} tokens, but the frames hold {max_tokens} of each rank")
        came, counts, handle, _, hook = self._shared.low_latency(*self._shape).low_latency_dispatch(
            x.contiguous(), ids, max_tokens, num_experts, use_fp8=self._fp8, return_recv_hook=True
        )

        def receive() -> Prepared[BatchedRows]:
            hook()
            return Prepared(
                BatchedRows(came, counts), lambda outputs: self._combine(outputs, ids, weights, handle)
            )

        return receive

    def _combine(self, outputs: Tensor, ids: Tensor, weights: Tensor, handle: object) -> Pending[Tensor]:
        buffer = self._shared.low_latency(*self._shape)
        combined, _, hook = buffer.low_latency_combine(outputs, ids, weights, handle, return_recv_hook=True)
        return _after(hook, combined)


def _after(hook: Callable[[], None], combined: Tensor) -> Pending[Tensor]:
    def receive() -> Tensor:
        hook()
        return combined

    return receive

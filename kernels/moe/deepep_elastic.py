"""DeepEP V2: one buffer for both phases, expanded and exact for prompts, fixed and unsynchronised for decode.

Expanded, a row arrives for each (token, local expert), grouped by expert: nothing is left to permute. In
fixed size, a row arrives for each (token, rank) in a tensor as long as it could ever be; rows behind those
that came are garbage. Combine adds rows up as they are, so router weights are applied before it.
"""

from typing import Any

import torch
from torch import Tensor

from .deepep import ElasticBuffer, check_carried
from .finalize import finalize_batched
from .pair import Pending, Prepared
from .prepare import prepare_batched
from .rows import ActivationFormat, BatchedRows, ContiguousRows


class DeepEpElasticContiguous:
    """Expanded rows in exact number; the CPU waits for the counts."""

    format = ActivationFormat.CONTIGUOUS

    def __init__(self, buffer: ElasticBuffer, num_experts: int) -> None:
        self._buffer = buffer
        self._num_experts = num_experts

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[ContiguousRows]]:
        """Start the dispatch."""
        check_carried(x)
        came, _, came_weights, handle, event = self._buffer.dispatch(
            x.contiguous(),
            topk_idx=ids,
            topk_weights=weights,
            num_experts=self._num_experts,
            expert_alignment=1,
            do_expand=True,
            do_cpu_sync=True,
            async_with_compute_stream=True,
        )

        def receive() -> Prepared[ContiguousRows]:
            event.current_stream_wait()
            counts: list[int] = handle.num_recv_tokens_per_expert_list
            present = [expert for expert, count in enumerate(counts) if count]
            routed = ContiguousRows(came, present, [counts[expert] for expert in present], None)

            def finalize(outputs: Tensor) -> Pending[Tensor]:
                weighted = outputs * came_weights.unsqueeze(1).to(outputs.dtype)
                return _combine(self._buffer, weighted, handle)

            return Prepared(routed, finalize)

        return receive


class DeepEpElasticBatched:
    """As many rows as there could be; no count is ever on the CPU."""

    format = ActivationFormat.BATCHED

    def __init__(self, buffer: ElasticBuffer, num_experts: int, experts_per_rank: int) -> None:
        self._buffer = buffer
        self._num_experts = num_experts
        self._experts = experts_per_rank

    def prepare(self, x: Tensor, ids: Tensor, weights: Tensor) -> Pending[Prepared[BatchedRows]]:
        """Start the dispatch."""
        check_carried(x)
        came, came_ids, came_weights, handle, event = self._buffer.dispatch(
            x.contiguous(),
            topk_idx=ids,
            topk_weights=weights,
            num_experts=self._num_experts,
            do_expand=False,
            do_cpu_sync=False,
            async_with_compute_stream=True,
        )

        def receive() -> Prepared[BatchedRows]:
            event.current_stream_wait()
            arrived = handle.psum_num_recv_tokens_per_scaleup_rank[-1]
            garbage = torch.arange(came.shape[0], device=came.device) >= arrived
            local = came_ids.masked_fill(garbage.unsqueeze(1), -1)
            rows, positions = prepare_batched(came, local, self._experts)

            def finalize(outputs: Tensor) -> Pending[Tensor]:
                return _combine(self._buffer, finalize_batched(outputs, positions, came_weights), handle)

            return Prepared(rows, finalize)

        return receive


def _combine(buffer: ElasticBuffer, weighted: Tensor, handle: Any) -> Pending[Tensor]:
    combined, _, event = buffer.combine(weighted, handle, async_with_compute_stream=True)

    def receive() -> Tensor:
        event.current_stream_wait()
        out: Tensor = combined
        return out

    return receive

"""DeepEP as far as Baton calls it: the interface of its buffers, how they are opened, and their limits.

`deep_ep` is imported here alone, and only when a buffer is opened: it exists on CUDA machines only. Limits
are checked before a call, because on a cluster a breach is a hang or a wrong sum and not an exception.
Interface and limits: github.com/deepseek-ai/DeepEP, `deep_ep/buffers`, `docs/legacy.md`.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..fp8 import Quantised

LOW_LATENCY_HIDDEN = (2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192)
"""Hidden sizes that the low-latency kernels are compiled for."""
LOW_LATENCY_MAX_TOP_K = 11
INTRANODE_RANKS = 8
"""Up to so many ranks all traffic of the normal kernels is NVLink."""

Rows = Tensor | Quantised
"""bfloat16 [n, hidden], or float8_e4m3fn [n, hidden] with float32 factors [n, hidden / 128]"""


class DeepEpError(Exception):
    """DeepEP cannot carry what it is asked to, or is not installed."""


class Event(Protocol):
    """A point in a stream."""

    def current_stream_wait(self) -> None:
        """Let what the current stream does next come after it."""


class LegacyBuffer(Protocol):
    """`deep_ep.Buffer`: normal and low-latency kernels over one registered buffer."""

    def get_dispatch_layout(self, topk_idx: Tensor, num_experts: int, **options: Any) -> tuple[Any, ...]:
        """Count what goes where."""

    def dispatch(self, x: Rows, **options: Any) -> tuple[Any, ...]:
        """Send rows to the ranks of their experts, one for each (token, rank)."""

    def combine(self, x: Tensor, handle: Any, **options: Any) -> tuple[Any, ...]:
        """Send rows back and add them up, unweighted."""

    def low_latency_dispatch(
        self,
        x: Tensor,
        topk_idx: Tensor,
        num_max_dispatch_tokens_per_rank: int,
        num_experts: int,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Send rows into the frames of their experts."""

    def low_latency_combine(
        self, x: Tensor, topk_idx: Tensor, topk_weights: Tensor, handle: Any, **options: Any
    ) -> tuple[Any, ...]:
        """Send frames back and add them up with weights."""

    def clean_low_latency_buffer(
        self, num_max_dispatch_tokens_per_rank: int, hidden: int, num_experts: int
    ) -> None:
        """Make the buffer usable for the low-latency kernels after the normal ones."""


class ElasticBuffer(Protocol):
    """`deep_ep.ElasticBuffer` of DeepEP V2."""

    def dispatch(self, x: Rows, **options: Any) -> tuple[Any, ...]:
        """Send rows to the ranks of their experts."""

    def combine(self, x: Tensor, handle: Any, **options: Any) -> tuple[Any, ...]:
        """Send rows back and add them up, unweighted."""


class SharedBuffer:
    """One legacy buffer under both kinds of kernels; knows when it must be cleaned between them."""

    def __init__(self, buffer: LegacyBuffer, capture: Callable[[], Event]) -> None:
        """Take an open buffer; `capture` records an event of the compute stream (`Buffer.capture`)."""
        self._buffer = buffer
        self._is_dirty = False
        self.capture = capture

    def normal(self) -> LegacyBuffer:
        """Return the buffer for a normal kernel, which leaves it dirty."""
        self._is_dirty = True
        return self._buffer

    def low_latency(self, max_tokens: int, hidden: int, num_experts: int) -> LegacyBuffer:
        """Return the buffer for a low-latency kernel. All ranks change over at the same call."""
        if self._is_dirty:
            self._buffer.clean_low_latency_buffer(max_tokens, hidden, num_experts)
            self._is_dirty = False
        return self._buffer


def check_carried(x: Tensor) -> None:
    """Raise `DeepEpError` unless rows are of the number format that DeepEP carries."""
    if x.dtype is not torch.bfloat16:
        raise DeepEpError(f"DeepEP carries bfloat16 rows, but the model computes in {x.dtype}")


def check_low_latency(hidden: int, top_k: int, max_tokens: int, num_experts: int, ranks: int) -> None:
    """Raise `DeepEpError` for a shape that the low-latency kernels do not have."""
    if hidden not in LOW_LATENCY_HIDDEN:
        raise DeepEpError(
            f"deepep_low_latency has no kernel for hidden_size {hidden}; it has {LOW_LATENCY_HIDDEN}"
        )
    if top_k > LOW_LATENCY_MAX_TOP_K:
        raise DeepEpError(f"deepep_low_latency takes {LOW_LATENCY_MAX_TOP_K} experts a token, not {top_k}")
    if ranks * max_tokens % 4:
        raise DeepEpError(f"{ranks} ranks times {max_tokens} decode rows must be a multiple of 4")
    if num_experts % ranks:
        raise DeepEpError(f"{num_experts} experts cannot be shared out evenly to {ranks} ranks")


def open_high_throughput(group: dist.ProcessGroup, hidden: int) -> SharedBuffer:
    """Open a buffer for the normal kernels alone."""
    deep_ep = _deep_ep()
    nvlink_bytes, rdma_bytes = _normal_bytes(deep_ep, group.size(), hidden)
    buffer = deep_ep.Buffer(group, num_nvl_bytes=nvlink_bytes, num_rdma_bytes=rdma_bytes)
    return SharedBuffer(buffer, deep_ep.Buffer.capture)


def open_low_latency(
    group: dist.ProcessGroup, hidden: int, max_tokens: int, num_experts: int
) -> SharedBuffer:
    """Open a buffer for low-latency kernels, and normal ones for prompts."""
    deep_ep = _deep_ep()
    nvlink_bytes, rdma_bytes = _normal_bytes(deep_ep, group.size(), hidden)
    hint = deep_ep.Buffer.get_low_latency_rdma_size_hint(max_tokens, hidden, group.size(), num_experts)
    buffer = deep_ep.Buffer(
        group,
        num_nvl_bytes=nvlink_bytes,
        num_rdma_bytes=max(rdma_bytes, hint),
        low_latency_mode=True,
        num_qps_per_rank=num_experts // group.size(),
    )
    return SharedBuffer(buffer, deep_ep.Buffer.capture)


def open_elastic(group: dist.ProcessGroup, hidden: int, top_k: int, max_tokens: int) -> ElasticBuffer:
    """Open a buffer of DeepEP V2 for at most `max_tokens` tokens a rank and call."""
    buffer: ElasticBuffer = _deep_ep().ElasticBuffer(
        group, num_max_tokens_per_rank=max_tokens, hidden=hidden, num_topk=top_k
    )
    return buffer


def _normal_bytes(deep_ep: Any, ranks: int, hidden: int) -> tuple[int, int]:
    configs = (deep_ep.Buffer.get_dispatch_config(ranks), deep_ep.Buffer.get_combine_config(ranks))
    row_bytes = hidden * torch.bfloat16.itemsize
    nvlink_bytes = max(config.get_nvl_buffer_size_hint(row_bytes, ranks) for config in configs)
    if ranks <= INTRANODE_RANKS:
        return nvlink_bytes, 0
    return nvlink_bytes, max(config.get_rdma_buffer_size_hint(row_bytes, ranks) for config in configs)


def _deep_ep() -> Any:
    try:
        import deep_ep  # noqa: PLC0415  only machines with CUDA have it
    except ImportError as error:
        raise DeepEpError(f"this backend needs the package deep_ep: {error}") from error
    return deep_ep

"""`deep_ep.Buffer`: normal and low-latency kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .fabric import Calls, EventOverlap, Group, check_routing, check_rows, demand, garbage

HIDDEN_SIZES = (2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192)
NORMAL_RANKS = (2, 4, 8)
Overlap = EventOverlap | None


class Buffer:
    """One rank's buffer."""

    def __init__(self, group: Group, *, low_latency_mode: bool = False) -> None:
        self._calls = Calls(group)
        self._low_latency_mode = low_latency_mode
        self._is_dirty = False
        self._alive: list[Tensor] = []
        self.cleaned = 0

    @staticmethod
    def capture() -> EventOverlap:
        return EventOverlap()

    # -- normal kernels -------------------------------------------------------------------------------------

    def get_dispatch_layout(
        self,
        topk_idx: Tensor,
        num_experts: int,
        previous_event: Overlap = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, EventOverlap]:
        self._check_stream(previous_event, async_finish, allocate_on_comm_stream)
        in_rank, per_expert = self._layout(topk_idx, num_experts)
        return in_rank.sum(0, dtype=torch.int32), None, per_expert, in_rank, EventOverlap()

    def dispatch(
        self,
        x: Any,
        *,
        handle: Any = None,
        num_tokens_per_rank: Tensor | None = None,
        num_tokens_per_rdma_rank: Tensor | None = None,
        is_token_in_rank: Tensor | None = None,
        num_tokens_per_expert: Tensor | None = None,
        topk_idx: Tensor | None = None,
        topk_weights: Tensor | None = None,
        expert_alignment: int = 1,
        num_worst_tokens: int = 0,
        config: Any = None,
        previous_event: Overlap = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[Any, Tensor, Tensor, list[int], Any, EventOverlap]:
        demand(self._calls.size in NORMAL_RANKS, f"no normal kernel for {self._calls.size} ranks")
        demand(
            handle is None and num_worst_tokens == 0, "the stand-in has neither cached nor worst-case mode"
        )
        self._check_stream(previous_event, async_finish, allocate_on_comm_stream)
        values, scales = check_rows(x)
        assert topk_idx is not None
        assert topk_weights is not None
        assert num_tokens_per_expert is not None
        experts = num_tokens_per_expert.shape[0]
        check_routing(values, topk_idx, topk_weights, experts)
        in_rank, per_expert = self._layout(topk_idx, experts)
        demand(torch.equal(in_rank.sum(0, dtype=torch.int32), _given(num_tokens_per_rank)), "counts by rank")
        demand(torch.equal(per_expert, num_tokens_per_expert), "counts by expert")
        demand(torch.equal(in_rank, _given(is_token_in_rank)), "is_token_in_rank")
        self._is_dirty = True
        message = (
            values.clone(),
            None if scales is None else scales.clone(),
            topk_idx,
            topk_weights,
            in_rank,
        )
        messages = self._calls.collect(self._calls.open("dispatch", message))  # the CPU waits for the counts
        share, me = experts // self._calls.size, self._calls.rank
        kept = [sent[4][:, me] for sent in messages]
        rows = torch.cat([sent[0][keep] for sent, keep in zip(messages, kept, strict=True)])
        ids = torch.cat([sent[2][keep] for sent, keep in zip(messages, kept, strict=True)]) - me * share
        ids[(ids < 0) | (ids >= share)] = -1
        weights = torch.cat([sent[3][keep] for sent, keep in zip(messages, kept, strict=True)])
        counts = [-(-int((ids == e).sum()) // expert_alignment) * expert_alignment for e in range(share)]
        arrived: list[Tensor] = [rows, ids, weights]
        if scales is not None:
            arrived.append(torch.cat([sent[1][keep] for sent, keep in zip(messages, kept, strict=True)]))
        results, event = _later(arrived, async_finish)
        came = results[0] if scales is None else (results[0], results[3])
        normal_handle = ("normal", [int(keep.sum()) for keep in kept], in_rank)
        return came, results[1], results[2], counts, normal_handle, event

    def combine(
        self,
        x: Tensor,
        handle: Any,
        *,
        topk_weights: Tensor | None = None,
        bias: Tensor | None = None,
        config: Any = None,
        previous_event: Overlap = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[Tensor, Tensor | None, EventOverlap]:
        self._check_stream(previous_event, async_finish, allocate_on_comm_stream)
        kind, from_rank, in_rank = handle
        demand(kind == "normal", "a handle of a normal dispatch")
        demand(x.dtype is torch.bfloat16 and x.is_contiguous(), "combine takes contiguous bfloat16 rows")
        demand(x.shape[0] == sum(from_rank), "combine takes a row for each that dispatch gave")
        demand(not x.isnan().any(), "rows are combined before they were computed")
        self._is_dirty = True
        messages = self._calls.collect(self._calls.open("combine", x.clone().split(from_rank)))
        out = torch.zeros(in_rank.shape[0], x.shape[1])
        for rank, parts in enumerate(messages):
            out[in_rank[:, rank]] += parts[self._calls.rank].float()
        [combined], event = _later([out.bfloat16()], async_finish)
        return combined, None, event

    # -- low-latency kernels --------------------------------------------------------------------------------

    def clean_low_latency_buffer(
        self, num_max_dispatch_tokens_per_rank: int, hidden: int, num_experts: int
    ) -> None:
        self._calls.collect(
            self._calls.open("clean", (num_max_dispatch_tokens_per_rank, hidden, num_experts))
        )
        self._is_dirty = False
        self.cleaned += 1

    def low_latency_dispatch(
        self,
        x: Tensor,
        topk_idx: Tensor,
        num_max_dispatch_tokens_per_rank: int,
        num_experts: int,
        *,
        use_fp8: bool = True,
        async_finish: bool = False,
        return_recv_hook: bool = False,
    ) -> tuple[Any, Tensor, Any, EventOverlap, Callable[[], None]]:
        most, size = num_max_dispatch_tokens_per_rank, self._calls.size
        self._check_low_latency(most, num_experts, async_finish, return_recv_hook)
        check_rows(x)
        check_routing(x, topk_idx, None, num_experts)
        tokens, hidden = x.shape
        demand(hidden in HIDDEN_SIZES, f"no low-latency kernel for hidden {hidden}")
        demand(tokens <= most, f"{tokens} tokens, at most {most}")
        demand(topk_idx.shape[1] <= 11, "at most 11 experts a token")
        call = self._calls.open("low_latency_dispatch", (x.clone(), topk_idx.clone(), most, num_experts))
        share = num_experts // size
        frame = garbage(share, most * size, hidden, dtype=torch.float8_e4m3fn if use_fp8 else torch.bfloat16)
        scales = garbage(share, hidden // 128, most * size, dtype=torch.float32).transpose(1, 2)
        counts = garbage(share, dtype=torch.int32)
        handle = _LowLatencyHandle(most, num_experts)
        hook = _Hook(lambda: self._receive(call, frame, scales if use_fp8 else None, counts, handle))
        self._overwrite(frame)
        if not return_recv_hook:
            hook()
        return (frame, scales) if use_fp8 else frame, counts, handle, EventOverlap(), hook

    def low_latency_combine(
        self,
        x: Tensor,
        topk_idx: Tensor,
        topk_weights: Tensor,
        handle: Any,
        *,
        async_finish: bool = False,
        return_recv_hook: bool = False,
    ) -> tuple[Tensor, EventOverlap, Callable[[], None]]:
        demand(isinstance(handle, _LowLatencyHandle), "a handle of a low-latency dispatch")
        self._check_low_latency(handle.most, handle.num_experts, async_finish, return_recv_hook)
        demand(handle.source is not None, "combine before the dispatch's hook was called")
        frame_shape = (handle.num_experts // self._calls.size, handle.most * self._calls.size)
        demand(x.shape[:2] == frame_shape, f"combine takes frames {frame_shape}")
        demand(x.dtype is torch.bfloat16 and x.is_contiguous(), "combine takes contiguous bfloat16 frames")
        for expert, row in handle.source:
            demand(not x[expert, row].isnan().any(), "a row that counts was not computed, or was overwritten")
        check_routing(x.new_empty(topk_idx.shape[0], 1), topk_idx, topk_weights, handle.num_experts)
        call = self._calls.open("low_latency_combine", (x.clone(), handle.source))
        out = garbage(topk_idx.shape[0], x.shape[2], dtype=torch.bfloat16)
        hook = _Hook(lambda: self._reduce(call, out, topk_idx.clone(), topk_weights.clone(), handle))
        self._overwrite(out)
        if not return_recv_hook:
            hook()
        return out, EventOverlap(), hook

    def _receive(
        self, call: Any, frame: Tensor, scales: Tensor | None, counts: Tensor, handle: "_LowLatencyHandle"
    ) -> None:
        share = frame.shape[0]
        filled = [0] * share
        source: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (x, ids, most, num_experts) in enumerate(self._calls.collect(call)):
            demand((most, num_experts) == (handle.most, handle.num_experts), "ranks dispatch unlike shapes")
            for token, row in enumerate(ids.tolist()):
                for expert in (e - self._calls.rank * share for e in row if e >= 0):
                    if 0 <= expert < share:
                        at = filled[expert]
                        _store(x[token], frame, scales, expert, at)
                        source[expert, at] = (rank, token)
                        filled[expert] += 1
        counts.copy_(torch.tensor(filled, dtype=torch.int32))
        handle.source = source

    def _reduce(
        self, call: Any, out: Tensor, ids: Tensor, weights: Tensor, handle: "_LowLatencyHandle"
    ) -> None:
        share = handle.num_experts // self._calls.size
        sums = torch.zeros(out.shape)
        for rank, (frame, source) in enumerate(self._calls.collect(call)):
            for (expert, row), (owner, token) in source.items():
                if owner == self._calls.rank:
                    chosen = ids[token] == rank * share + expert
                    demand(int(chosen.sum()) == 1, "combine with other ids than dispatch")
                    sums[token] += weights[token][chosen] * frame[expert, row].float()
        out.copy_(sums)

    def _check_low_latency(self, most: int, experts: int, async_finish: bool, with_hook: bool) -> None:
        demand(self._low_latency_mode, "the buffer was not opened in low_latency_mode")
        demand(not self._is_dirty, "normal kernels ran since clean_low_latency_buffer")
        demand(not (async_finish and with_hook), "async_finish and return_recv_hook exclude each other")
        demand((self._calls.size * most) % 4 == 0, "ranks times tokens must be a multiple of 4")
        demand(experts % self._calls.size == 0, "experts must be shared out evenly")

    def _overwrite(self, result: Tensor) -> None:
        """Let the third result take the place of the first."""
        if len(self._alive) == 2:
            self._alive.pop(0).view(torch.uint8).fill_(0xFF)  # NaN in bfloat16 and in float8
        self._alive.append(result)

    def _layout(self, ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
        experts = torch.arange(num_experts)
        chosen = (ids.unsqueeze(-1) == experts).any(1)
        in_rank = chosen.view(-1, self._calls.size, num_experts // self._calls.size).any(2)
        return in_rank, chosen.sum(0, dtype=torch.int32)

    @staticmethod
    def _check_stream(previous: Overlap, async_finish: bool, on_comm_stream: bool) -> None:
        if on_comm_stream:
            demand(
                previous is not None and async_finish, "allocate_on_comm_stream needs previous_event, async"
            )


class _LowLatencyHandle:
    def __init__(self, most: int, num_experts: int) -> None:
        self.most = most
        self.num_experts = num_experts
        self.source: dict[tuple[int, int], tuple[int, int]] | None = None


class _Hook:
    def __init__(self, receive: Callable[[], None]) -> None:
        self._receive: Callable[[], None] | None = receive

    def __call__(self) -> None:
        demand(self._receive is not None, "a hook may be called once")
        assert self._receive is not None
        receive, self._receive = self._receive, None
        receive()


def _store(x: Tensor, frame: Tensor, scales: Tensor | None, expert: int, row: int) -> None:
    if scales is None:
        frame[expert, row] = x
        return
    tiles = x.float().view(-1, 128)
    factors = tiles.abs().amax(1).clamp(min=1e-4) / 448.0
    scales[expert, row] = factors
    frame[expert, row] = (tiles / factors.unsqueeze(1)).flatten().to(torch.float8_e4m3fn)


def _later(arrived: list[Tensor], is_async: bool) -> tuple[list[Tensor], EventOverlap]:
    """Results that are garbage until the event was waited for."""
    if not is_async:
        return arrived, EventOverlap()
    results = [garbage(*tensor.shape, dtype=tensor.dtype) for tensor in arrived]

    def arrive() -> None:
        for result, tensor in zip(results, arrived, strict=True):
            result.copy_(tensor)

    return results, EventOverlap(arrive)


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor

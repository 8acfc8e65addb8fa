"""`deep_ep.ElasticBuffer`, DeepEP V2."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .fabric import Calls, EventOverlap, Group, check_routing, check_rows, demand, garbage
from .legacy import _given, _later


@dataclass
class EPHandle:
    """What combine needs to know of a dispatch, and counts for the caller."""

    do_expand: bool
    num_recv_tokens_per_expert_list: list[int]
    psum_num_recv_tokens_per_scaleup_rank: Tensor
    psum_num_recv_tokens_per_expert: Tensor
    topk_idx: Tensor
    sources: list[list[tuple[int, int]]]
    """For each (rank, token) row that came, in order: (rank, token) and the rows of x it stands in."""
    places: list[list[int]]
    rows: int


class ElasticBuffer:
    """One rank's buffer."""

    def __init__(
        self, group: Group, *, num_max_tokens_per_rank: int = 0, hidden: int = 0, num_topk: int = 0
    ) -> None:
        self._calls = Calls(group)
        self._most = num_max_tokens_per_rank
        self._hidden = hidden
        self._top_k = num_topk

    def dispatch(
        self,
        x: Any,
        *,
        topk_idx: Tensor | None = None,
        topk_weights: Tensor | None = None,
        num_experts: int | None = None,
        num_max_tokens_per_rank: int | None = None,
        expert_alignment: int | None = None,
        async_with_compute_stream: bool = False,
        do_cpu_sync: bool | None = None,
        do_expand: bool = False,
    ) -> tuple[Any, Tensor | None, Tensor, EPHandle, EventOverlap]:
        values, scales = check_rows(x)
        ids, weights = _given(topk_idx), _given(topk_weights)
        assert num_experts is not None
        check_routing(values, ids, weights, num_experts)
        demand(
            values.shape[1] == self._hidden and ids.shape[1] <= self._top_k,
            "shapes the buffer was opened for",
        )
        most = num_max_tokens_per_rank or self._most
        demand(values.shape[0] <= most, f"{values.shape[0]} tokens, at most {most}")
        demand(scales is None, "the stand-in has no FP8 dispatch of V2")
        messages = self._calls.collect(
            self._calls.open("dispatch", (values.clone(), ids.clone(), weights.clone(), num_experts, most))
        )
        share, me = num_experts // self._calls.size, self._calls.rank
        local = [message[1] - me * share for message in messages]
        came = [
            (rank, token)
            for rank, ids_of in enumerate(local)
            for token, row in enumerate(ids_of.tolist())
            if any(0 <= expert < share for expert in row)
        ]
        psum = torch.tensor(
            [sum(r <= rank for r, _ in came) for rank in range(self._calls.size)], dtype=torch.int32
        )
        pick = _expand if do_expand else _once
        rows, row_ids, row_weights, counts, places = pick(messages, local, came, share, expert_alignment or 1)
        worst = most * self._calls.size * (min(ids.shape[1], share) if do_expand else 1)
        exact = do_cpu_sync is None or do_cpu_sync
        arrived = [rows, row_weights, *([] if row_ids is None else [row_ids])]
        if not exact:
            arrived = [_in_worst_case(tensor, worst) for tensor in arrived]
        results, event = _later(arrived, async_with_compute_stream)
        handle = EPHandle(
            do_expand=do_expand,
            num_recv_tokens_per_expert_list=counts if exact else [],
            psum_num_recv_tokens_per_scaleup_rank=psum,
            psum_num_recv_tokens_per_expert=torch.tensor(counts, dtype=torch.int32).cumsum(0),
            topk_idx=ids.clone(),
            sources=[came],
            places=places,
            rows=results[0].shape[0],
        )
        return results[0], None if row_ids is None else results[2], results[1], handle, event

    def combine(
        self,
        x: Tensor,
        handle: EPHandle,
        topk_weights: Tensor | None = None,
        async_with_compute_stream: bool = False,
    ) -> tuple[Tensor, Tensor | None, EventOverlap]:
        demand(x.dtype is torch.bfloat16 and x.is_contiguous(), "combine takes contiguous bfloat16 rows")
        demand(x.shape[0] == handle.rows, "combine takes a row for each that dispatch gave")
        [came] = handle.sources
        sums = {}
        for source, places in zip(came, handle.places, strict=True):
            demand(not x[places].isnan().any(), "rows are combined before they were computed")
            sums[source] = x[places].float().sum(0)
        out = torch.zeros(handle.topk_idx.shape[0], x.shape[1])
        for message in self._calls.collect(self._calls.open("combine", sums)):
            for (rank, token), row in message.items():
                if rank == self._calls.rank:
                    out[token] += row
        [combined], event = _later([out.bfloat16()], async_with_compute_stream)
        return combined, None, event


def _once(
    messages: list[Any], local: list[Tensor], came: list[tuple[int, int]], share: int, alignment: int
) -> tuple[Tensor, Tensor, Tensor, list[int], list[list[int]]]:
    """One row a (token, rank)."""
    rows = _stack([messages[rank][0][token] for rank, token in came], messages[0][0])
    ids = _stack([local[rank][token] for rank, token in came], messages[0][1])
    ids[(ids < 0) | (ids >= share)] = -1
    weights = _stack([messages[rank][2][token] for rank, token in came], messages[0][2])
    counts = [-(-int((ids == expert).sum()) // alignment) * alignment for expert in range(share)]
    return rows, ids, weights, counts, [[row] for row in range(len(came))]


def _expand(
    messages: list[Any], local: list[Tensor], came: list[tuple[int, int]], share: int, alignment: int
) -> tuple[Tensor, None, Tensor, list[int], list[list[int]]]:
    """One row a (token, local expert), expert after expert, each expert's run padded to the alignment."""
    rows: list[Tensor] = []
    weights: list[Tensor] = []
    counts: list[int] = []
    places: list[list[int]] = [[] for _ in came]
    like = messages[0][0]
    for expert in range(share):
        start = len(rows)
        for index, (rank, token) in enumerate(came):
            for k in (local[rank][token] == expert).nonzero().flatten().tolist():
                places[index].append(len(rows))
                rows.append(messages[rank][0][token])
                weights.append(messages[rank][2][token, k])
        while (len(rows) - start) % alignment:
            rows.append(garbage(like.shape[1], dtype=like.dtype))
            weights.append(torch.tensor(float("nan")))
        counts.append(len(rows) - start)
    stacked = torch.stack(weights) if weights else torch.empty(0)
    return _stack(rows, like), None, stacked, counts, places


def _stack(rows: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(rows) if rows else like.new_empty(0, like.shape[1])


def _in_worst_case(tensor: Tensor, rows: int) -> Tensor:
    out = garbage(rows, *tensor.shape[1:], dtype=tensor.dtype)
    out[: tensor.shape[0]] = tensor
    return out

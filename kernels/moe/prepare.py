"""First stage: group token rows by expert."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..by_device import wants_fixed_shapes
from ..fp8 import Quantised
from .frames import Frames
from .rows import BatchedRows, ContiguousRows


def prepare_contiguous(x: Tensor | Quantised, ids: Tensor, owned: range) -> ContiguousRows:
    """Gather one row for each routed pair whose expert is owned, expert after expert.

    Pairs of experts outside `owned`, such as -1 of a padding row, get no row.

    x    [tokens, hidden]; quantised rows stay so
    ids  [tokens, top_k]   int64
    """
    tokens, top_k = ids.shape
    if tokens == 1 and owned.start == 0 and len(owned) > 0:
        experts = ids[0].tolist()
        if all(expert in owned for expert in experts):
            return ContiguousRows(_each(x, lambda part: part.expand(top_k, -1)), experts, [1] * top_k, None)
    # The host needs the counts in any case, and numpy sorts a few ids in half of torch's time.
    local = (ids.cpu().numpy().ravel() - (owned.start - 1)).clip(0, len(owned) + 1)  # 0 and n + 1: not owned
    order = local.argsort(kind="stable")
    below, *counts, above = np.bincount(local, minlength=len(owned) + 2).tolist()
    kept = order.size - below - above
    positions = np.empty_like(order)
    positions[order] = np.arange(-below, kept + above)
    if below or above:
        positions[(positions < 0) | (positions > kept)] = kept
        order = order[below : below + kept]
    sources = torch.from_numpy(order // top_k).to(ids.device)
    rows = _each(x, lambda part: part.index_select(0, sources))
    present = [expert for expert, count in enumerate(counts) if count]
    places = torch.from_numpy(positions).to(ids.device).view(tokens, top_k)
    return ContiguousRows(rows, present, [counts[e] for e in present], places)


def _each(x: Tensor | Quantised, pick: Callable[[Tensor], Tensor]) -> Tensor | Quantised:
    """Pick rows, or values (as bytes: not every operation knows FP8) and factors alike."""
    if isinstance(x, Tensor):
        return pick(x)
    values, scales = x
    return pick(values.view(torch.uint8)).view(values.dtype), pick(scales)


def prepare_batched(
    x: Tensor, ids: Tensor, experts: int, frames: Frames | None = None
) -> tuple[BatchedRows, Tensor]:
    """Scatter token rows into a frame with room for every token at every expert; no shape depends on data.

    x        [tokens, hidden]
    ids      [tokens, top_k]   int64, local experts; -1 gets no row
    frames   where a CPU's memory comes from; absent: it is allocated
    returns  the frame `[experts, tokens, hidden]`, and `[tokens, top_k]` int64: the row of each pair in the
             flattened frame, `experts * tokens` for pairs without one
    """
    if not wants_fixed_shapes(x.device):
        return _prepare_counted(x, ids, experts, frames or Frames())
    tokens, top_k = ids.shape
    flat = ids.flatten()
    chosen = flat.unsqueeze(1) == torch.arange(experts, device=ids.device)
    place = chosen.cumsum(0).sub_(1).mul_(chosen).sum(1)
    nowhere = experts * tokens
    positions = torch.where(chosen.any(1), flat * tokens + place, nowhere)
    frame = x.new_zeros(nowhere + 1, x.shape[1])  # the last row takes what belongs nowhere
    frame.index_copy_(0, positions, x.repeat_interleave(top_k, 0))
    counts = chosen.sum(0, dtype=torch.int32)
    rows = BatchedRows(frame[:nowhere].view(experts, tokens, x.shape[1]), counts)
    return rows, positions.view(tokens, top_k)


def _prepare_counted(x: Tensor, ids: Tensor, experts: int, frames: Frames) -> tuple[BatchedRows, Tensor]:
    """Copy only the rows that count, which a CPU may look at."""
    tokens, top_k = ids.shape
    flat = ids.flatten()
    counted = flat.add(1).bincount(minlength=experts + 1)
    skipped, *counts = counted.tolist()
    order = flat.argsort(stable=True)[skipped:]
    frame = frames.take(experts * tokens, x).view(experts, tokens, x.shape[1])
    for expert, sources in enumerate((order // top_k).split_with_sizes(counts)):
        if counts[expert]:
            torch.index_select(x, 0, sources, out=frame[expert, : counts[expert]])
    gaps = tokens - counted[1:]  # rows of each expert's frame that stay empty
    taken = torch.arange(order.numel()) + (gaps.cumsum(0) - gaps)[flat[order]]
    positions = torch.full_like(flat, experts * tokens).index_copy_(0, order, taken)
    return BatchedRows(frame, counted[1:].int()), positions.view(tokens, top_k)

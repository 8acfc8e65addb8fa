"""Last stage: weight the experts' outputs and sum them for each token."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ..by_device import wants_fixed_shapes
from .rows import ContiguousRows


def finalize_contiguous(outputs: Tensor, routed: ContiguousRows, weights: Tensor) -> Tensor:
    """Return `sum over k of weights[t, k] * output of pair (t, k)`; pairs without a row add nothing.

    outputs  [n, hidden]
    weights  [tokens, top_k]    float32
    returns  [tokens, hidden]   outputs.dtype
    """
    if routed.positions is None:
        return weights.to(outputs.dtype) @ outputs
    return _weighted_sums(outputs, routed.positions, weights)


def finalize_batched(outputs: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of each token's rows in the frame; what garbage rows hold has no effect.

    outputs    [experts, max rows, hidden]
    positions  [tokens, top_k] int64, rows of the flattened frame; `experts * max rows` for pairs without one
    weights    [tokens, top_k] float32
    returns    [tokens, hidden] outputs.dtype
    """
    frame = outputs.flatten(0, 1)
    if not wants_fixed_shapes(frame.device):
        return _weighted_sums(frame, positions, weights)
    tokens, top_k = positions.shape
    missing = positions >= frame.shape[0]
    pairs = frame.index_select(0, positions.clamp(max=frame.shape[0] - 1).flatten())
    pairs = pairs.view(tokens, top_k, frame.shape[1]).masked_fill_(missing.unsqueeze(-1), 0.0)
    return torch.bmm(weights.to(outputs.dtype).unsqueeze(1), pairs).squeeze(1)


def _weighted_sums(rows: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """Add up each token's rows in one pass over them, with a shape that depends on data."""
    present = positions < rows.shape[0]
    counts = present.sum(1)
    if not rows.shape[0] or not positions.shape[0]:
        return rows.new_zeros(positions.shape[0], rows.shape[1])
    return embedding_bag(
        positions[present],
        rows,
        counts.cumsum(0).sub_(counts),
        mode="sum",
        per_sample_weights=weights[present].to(rows.dtype),
    )

"""Last stage: weight the experts' outputs and sum them for each token."""

import torch
from torch import Tensor

from .rows import ContiguousRows


def finalize_contiguous(outputs: Tensor, routed: ContiguousRows, weights: Tensor) -> Tensor:
    """Return `sum over k of weights[t, k] * output of pair (t, k)`; pairs without a row add nothing.

    outputs  [n, hidden]
    weights  [tokens, top_k]    float32
    returns  [tokens, hidden]   outputs.dtype
    """
    tokens, top_k = weights.shape
    weights = weights.to(outputs.dtype)
    if routed.positions is None:
        return weights @ outputs
    if outputs.shape[0] < tokens * top_k:
        outputs = torch.cat((outputs, outputs.new_zeros(1, outputs.shape[1])))
    pairs = outputs.index_select(0, routed.positions.flatten()).view(tokens, top_k, outputs.shape[1])
    return torch.bmm(weights.unsqueeze(1), pairs).squeeze(1)


def finalize_batched(outputs: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of each token's rows in the frame; what garbage rows hold has no effect.

    outputs    [experts, max rows, hidden]
    positions  [tokens, top_k] int64, rows of the flattened frame; `experts * max rows` for pairs without one
    weights    [tokens, top_k] float32
    returns    [tokens, hidden] outputs.dtype
    """
    tokens, top_k = positions.shape
    frame = outputs.flatten(0, 1)
    missing = positions >= frame.shape[0]
    pairs = frame.index_select(0, positions.clamp(max=frame.shape[0] - 1).flatten())
    pairs = pairs.view(tokens, top_k, frame.shape[1]).masked_fill_(missing.unsqueeze(-1), 0.0)
    return torch.bmm(weights.to(outputs.dtype).unsqueeze(1), pairs).squeeze(1)

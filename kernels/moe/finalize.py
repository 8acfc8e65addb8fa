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

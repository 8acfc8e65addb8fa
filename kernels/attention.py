"""Scaled dot-product attention that also returns the log of its normaliser, so that parts can be merged.

A query's keys may be visited in several pieces (cached context, then its own chunk): with the logarithm of
the sum of exponentials of each piece, outputs combine exactly (arXiv 2205.14135, appendix B).

Queries go in blocks, so that scores stay in cache and a causal block meets no key after its last query. On a
CPU that beats torch's fused kernel, which wants values as wide as keys, by about a third at 1,000 tokens.
"""

import torch
from torch import Tensor

from .by_device import by_device

QUERY_BLOCK = 128
MAX_SCORES = 1 << 22  # values of one block's scores, 16 MiB in float32


@by_device
def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Attend; `causal` lets query i see keys up to i and needs as many keys as queries.

    q        [kv_heads, group, queries, dim]    `group` query heads share a key head
    k        [kv_heads, keys, dim]
    v        [kv_heads, keys, v_dim]
    returns  [kv_heads, group, queries, v_dim] q.dtype, [kv_heads, group, queries] float32
    """
    kv_heads, group, queries, _ = q.shape
    out = q.new_empty(kv_heads, group, queries, v.shape[-1])
    logs = torch.empty(kv_heads, group, queries, dtype=torch.float32, device=q.device)
    keys_last = k.transpose(1, 2)
    size = max(1, min(QUERY_BLOCK, queries, MAX_SCORES // max(1, kv_heads * group * k.shape[1])))
    later = (
        torch.full((size, size), float("-inf"), dtype=q.dtype, device=q.device).triu_(1) if causal else None
    )
    for start in range(0, queries, size):
        stop = min(start + size, queries)
        seen = stop if causal else k.shape[1]
        block = (q[:, :, start:stop] * scale).flatten(1, 2)
        scores = torch.bmm(block, keys_last[:, :, :seen]).view(kv_heads, group, stop - start, seen)
        if later is not None:
            scores[..., start:].add_(later[: stop - start, : stop - start])
        weights = torch.softmax(scores, -1)
        out[:, :, start:stop] = torch.bmm(weights.flatten(1, 2), v[:, :seen]).view(
            kv_heads, group, stop - start, -1
        )
        logs[:, :, start:stop] = _log_sums(scores, weights)
    return out, logs


def joined(attended: list[Tensor], like: Tensor, width: int) -> Tensor:
    """Put the sequences' rows, `[tokens, width]` each, one behind the other; a lone one stays."""
    if len(attended) == 1:
        return attended[0]
    return torch.cat(attended) if attended else like.new_empty(0, width)


@by_device
def merge_attention(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Combine two results of `attend` over disjoint keys.

    first, second, returns  [..., queries, v_dim], [..., queries] float32
    """
    logs = torch.logaddexp(first[1], second[1])
    weights = [(part[1] - logs).exp_().unsqueeze(-1) for part in (first, second)]
    out = first[0] * weights[0] + second[0] * weights[1]
    return out.to(first[0].dtype), logs


def _log_sums(scores: Tensor, weights: Tensor) -> Tensor:
    """Log of the sum of exponentials, from the largest score and its weight, without exponentials anew."""
    return scores.amax(-1).float() - weights.amax(-1).float().log()

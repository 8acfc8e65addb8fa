"""FlashInfer: attention of one prompt over dense keys (docs.flashinfer.ai, `single_prefill_with_kv_cache`).

q        [queries, heads, dim]     bfloat16 or float16; heads of one key head follow each other
k, v     [keys, kv_heads, dim]
returns  [queries, heads, dim], and base-2 log-sum-exps [queries, heads] float32
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .hopper import is_hopper

DIMS = {64, 128, 256}
Attended = tuple[Tensor, Tensor]


def attend(package: Any, otherwise: Callable[..., Attended]) -> Callable[..., Attended]:
    """Return the operation by FlashInfer; what it does not take goes `otherwise`."""

    def attended(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool) -> Attended:
        if not _takes(q, k, v):
            return otherwise(q, k, v, scale=scale, causal=causal)
        kv_heads, group = q.shape[:2]
        out, logs = package.single_prefill_with_kv_cache_return_lse(
            q.flatten(0, 1).transpose(0, 1).contiguous(),
            k.transpose(0, 1).contiguous(),
            v.transpose(0, 1).contiguous(),
            causal=causal,
            kv_layout="NHD",
            sm_scale=scale,
        )
        by_head = out.transpose(0, 1).unflatten(0, (kv_heads, group)).contiguous()
        natural = logs.t().unflatten(0, (kv_heads, group)).contiguous() * math.log(2.0)
        return by_head, natural

    return attended


def _takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Values as wide as keys, which those of MLA are not."""
    same = q.shape[3] == v.shape[2] and q.shape[3] in DIMS
    some = q.numel() > 0 and k.numel() > 0
    return same and some and q.dtype in {torch.bfloat16, torch.float16} and is_hopper(q.device)

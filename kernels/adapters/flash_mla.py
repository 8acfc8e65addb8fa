"""FlashMLA: absorbed MLA decode over paged entries (github.com/deepseek-ai/FlashMLA, its interface file).

    q            [batch, 1, heads, 576]         bfloat16
    k_cache      [blocks, 64, 1, 576]           bfloat16, blocks any distance apart: one layer of the pool
    block_table  [batch, max_blocks]            int32
    returns      [batch, 1, heads, 512]         bfloat16, and log-sum-exps

Its schedule depends on the lengths and is made anew for each call, so nothing outlives a captured graph.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .hopper import is_hopper

WIDTH, RANK, BLOCK_TOKENS = 576, 512, 64


def mla_paged_decode(package: Any, otherwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the operation by FlashMLA; what it does not take goes `otherwise`."""

    def decode(
        q: Tensor,
        pool: Tensor,
        layer: int,
        tables: Tensor,
        context_lens: Tensor,
        *,
        rank: int,
        scale: float,
    ) -> Tensor:
        if not _takes(q, pool, rank):
            return otherwise(q, pool, layer, tables, context_lens, rank=rank, scale=scale)
        lengths = context_lens.clamp(
            min=1
        )  # a dead row sees one token of the null block, and is cleared below
        schedule, splits = package.get_mla_metadata(lengths, q.shape[1], 1)
        out, _ = package.flash_mla_with_kvcache(
            q.unsqueeze(1),
            pool[:, layer].unsqueeze(2),
            tables,
            lengths,
            rank,
            schedule,
            splits,
            softmax_scale=scale,
            causal=False,
        )
        result: Tensor = out.squeeze(1)
        return result.masked_fill((context_lens == 0).view(-1, 1, 1), 0.0)

    return decode


def _takes(q: Tensor, pool: Tensor, rank: int) -> bool:
    shape = (q.shape[2], rank, pool.shape[2])
    dtypes = {q.dtype, pool.dtype}
    live = q.shape[0] > 0
    return (
        live and shape == (WIDTH, RANK, BLOCK_TOKENS) and dtypes == {torch.bfloat16} and is_hopper(q.device)
    )

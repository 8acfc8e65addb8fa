"""Attention over dense keys and over the paged pool. Tables are shuffled and the null block is hot."""

import torch
from torch import Tensor

from ....kernels.attention import attend, merge_attention
from ....kernels.fp8 import FP8
from ....kernels.gqa_decode import gqa_paged_decode
from ....kernels.mla_decode import mla_paged_decode
from ..case import Case, Inputs
from .elementwise import size

NULL_BLOCK_VALUE = 400.0
"""What block 0 holds; a kernel that lets padding in is far off."""


def dense(
    make: Inputs, kv_heads: int, group: int, queries: int, keys: int, *,
    dim: int, v_dim: int, causal: bool, dtype: torch.dtype = torch.bfloat16,
) -> Case:  # fmt: skip
    """A chunk of one prompt."""
    # As engines have them: token by token, so that a head's values are not contiguous.
    q = make.normal(queries, kv_heads, group, dim, dtype=dtype).permute(1, 2, 0, 3)
    k, v = (make.normal(keys, kv_heads, width, dtype=dtype).transpose(0, 1) for width in (dim, v_dim))
    pairs = queries * (queries + 1) // 2 if causal else queries * keys
    return Case(
        operation=attend,
        shape=f"{kv_heads * group} heads, {queries} x {keys}, {dim}/{v_dim}{' causal' if causal else ''}",
        format=dtype,
        arguments=(q, k, v),
        keywords={"scale": dim**-0.5, "causal": causal},
        bytes=size(q) + size(k) + size(v) + kv_heads * group * queries * v_dim * q.element_size(),
        flops=2 * kv_heads * group * pairs * (dim + v_dim),
    )


def merge(make: Inputs, heads: int, queries: int, v_dim: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """Two parts whose logarithms differ by a little or by a lot."""
    parts = [
        (make.normal(heads, 1, queries, v_dim, dtype=dtype), make.normal(heads, 1, queries, scale=10.0))
        for _ in range(2)
    ]
    return Case(
        operation=merge_attention,
        shape=f"{heads} heads, {queries} x {v_dim}",
        format=dtype,
        arguments=(parts[0], parts[1]),
        bytes=3 * size(parts[0][0]),
    )


def mla_decode(
    make: Inputs, lengths: list[int], max_blocks: int, *, heads: int, rank: int, rope: int,
    block_tokens: int = 64, layers: int = 1, dtype: torch.dtype = torch.bfloat16, fp8: bool = False,
) -> Case:  # fmt: skip
    """One token of each sequence over its latents, which an FP8 pool may hold."""
    tables, blocks = _tables(make, lengths, max_blocks, block_tokens)
    pool = make.normal(blocks, layers, block_tokens, rank + rope, dtype=dtype)
    pool[0] = NULL_BLOCK_VALUE
    pool = pool.to(FP8) if fp8 else pool
    q = make.normal(len(lengths), heads, rank + rope, dtype=dtype)
    return Case(
        operation=mla_paged_decode,
        shape=f"batch {len(lengths)}, {heads} heads, {max(lengths)} keys{' in FP8' if fp8 else ''}",
        format=dtype,
        arguments=(q, pool, layers - 1, tables, _lengths(make, lengths)),
        keywords={"rank": rank, "scale": (rank + rope) ** -0.5},
        bytes=sum(lengths) * (rank + rope) * pool.element_size() + 2 * size(q),
        flops=2 * heads * sum(lengths) * (2 * rank + rope),
    )


def gqa_decode(
    make: Inputs, lengths: list[int], max_blocks: int, *, heads: int, kv_heads: int, dim: int,
    block_tokens: int = 64, layers: int = 1, dtype: torch.dtype = torch.bfloat16, fp8: bool = False,
) -> Case:  # fmt: skip
    """One token of each sequence over its keys and values, which an FP8 pool may hold."""
    tables, blocks = _tables(make, lengths, max_blocks, block_tokens)
    pool = make.normal(blocks, layers, 2, kv_heads, block_tokens, dim, dtype=dtype)
    pool[0] = NULL_BLOCK_VALUE
    pool = pool.to(FP8) if fp8 else pool
    q = make.normal(len(lengths), heads, dim, dtype=dtype)
    return Case(
        operation=gqa_paged_decode,
        shape=f"batch {len(lengths)}, {heads}/{kv_heads} heads of {dim}, {max(lengths)} keys"
        + " in FP8" * fp8,
        format=dtype,
        arguments=(q, pool, layers - 1, tables, _lengths(make, lengths)),
        keywords={"scale": dim**-0.5},
        bytes=2 * sum(lengths) * kv_heads * dim * pool.element_size() + 2 * size(q),
        flops=4 * heads * sum(lengths) * dim,
    )


def _tables(make: Inputs, lengths: list[int], max_blocks: int, block_tokens: int) -> tuple[Tensor, int]:
    """Block tables and the number of blocks in the pool, the null block included."""
    used = [-(-length // block_tokens) for length in lengths]
    assert max(used) <= max_blocks, f"{max(used)} blocks in a table of {max_blocks}"
    free = (make.order(sum(used)) + 1).int()
    tables = torch.zeros(len(lengths), max_blocks, dtype=torch.int32, device=make.device)
    for row, blocks in enumerate(torch.split(free, used)):
        tables[row, : len(blocks)] = blocks
    return tables, 1 + sum(used)


def _lengths(make: Inputs, lengths: list[int]) -> Tensor:
    return torch.tensor(lengths, dtype=torch.int32, device=make.device)

"""Attention over dense keys on a GPU, with the log of its normaliser (arXiv 2205.14135, 2307.08691).

A program holds a block of one head's queries and walks over the keys. A head width that is no power of two,
such as MLA's 192, is the sum of two tiles, 128 and 64, and so two products.
"""

import torch
import triton.language as tl
from torch import Tensor

from .jit import LN_2, LOG2_E, Number, Pointer, Tile, ceil_div, dot, dot_add, jit, power_of_two, rounded

BLOCK_QUERIES, BLOCK_KEYS = 128, 64
STAGES = 3


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Launch; shapes as in the reference."""
    kv_heads, group, queries, dim = q.shape
    keys, v_dim = v.shape[1:]
    assert k.shape == (kv_heads, keys, dim), f"keys {list(k.shape)} for queries {list(q.shape)}"
    assert not causal or keys == queries, f"causal, but {queries} queries and {keys} keys"
    assert q.stride(3) == k.stride(2) == v.stride(2) == 1, "heads must be dense"
    out = q.new_empty(kv_heads, group, queries, v_dim)
    logs = torch.empty(kv_heads, group, queries, dtype=torch.float32, device=q.device)
    if logs.numel():
        first, rest = widths(dim)
        block_queries = min(max(power_of_two(queries), 16), BLOCK_QUERIES)
        _attend_kernel[(ceil_div(queries, block_queries), kv_heads * group)](
            q, k, v, out, logs, *q.stride()[:3], *k.stride()[:2], *v.stride()[:2], group, queries, keys,
            scale, causal, dim, v_dim, first, rest, power_of_two(max(v_dim, 16)), block_queries,
            min(max(power_of_two(keys), 16), BLOCK_KEYS), num_warps=8, num_stages=STAGES,
        )  # fmt: skip
    return out, logs


def merge_attention(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Launch; shapes as in the reference."""
    (first_out, first_logs), (second_out, second_logs) = first, second
    assert first_out.shape == second_out.shape, f"{list(first_out.shape)} with {list(second_out.shape)}"
    assert all(part.is_contiguous() for part in (*first, *second)), "parts must be contiguous"
    out, logs = torch.empty_like(first_out), torch.empty_like(first_logs)
    rows, width = logs.numel(), out.shape[-1]
    if rows:
        block_rows = min(power_of_two(rows), 16)
        _merge_kernel[(ceil_div(rows, block_rows),)](
            first_out, first_logs, second_out, second_logs, out, logs, rows, width, block_rows,
            power_of_two(width), num_warps=4,
        )  # fmt: skip
    return out, logs


def widths(dim: int) -> tuple[int, int]:
    """A head width as a large tile and a smaller one, both powers of two; the second may be 0."""
    if dim <= 16 or dim == power_of_two(dim):
        return max(power_of_two(dim), 16), 0
    first = power_of_two(dim) // 2
    rest = max(power_of_two(dim - first), 16)
    return (first, rest) if rest < first else (2 * first, 0)


@jit
def _scores(
    q_first: Tile,
    q_rest: Tile,
    k: Pointer,
    key: Tile,
    keys: Number,
    k_key: Number,
    dim: tl.constexpr,
    first: tl.constexpr,
    rest: tl.constexpr,
) -> Tile:
    """Products of a block of queries with a block of keys."""
    column = tl.arange(0, first)
    place = k + (key.to(tl.int64) * k_key)[None, :]
    mask = (key < keys)[None, :] & (column < dim)[:, None]
    product = dot(q_first, tl.load(place + column[:, None], mask=mask, other=0.0))
    if rest:
        column = first + tl.arange(0, rest)
        mask = (key < keys)[None, :] & (column < dim)[:, None]
        product = dot_add(q_rest, tl.load(place + column[:, None], mask=mask, other=0.0), product)
    return product


@jit
def _attend_kernel(
    q: Pointer,  # [kv_heads, group, queries, dim]
    k: Pointer,  # [kv_heads, keys, dim]
    v: Pointer,  # [kv_heads, keys, v_dim]
    out: Pointer,  # [kv_heads, group, queries, v_dim], dense
    logs: Pointer,  # [kv_heads, group, queries] float32, dense
    q_kv_head: Number, q_group: Number, q_query: Number,
    k_head: Number, k_key: Number,
    v_head: Number, v_key: Number,
    group: Number, queries: Number, keys: Number,
    scale: Number,
    causal: tl.constexpr, dim: tl.constexpr, v_dim: tl.constexpr,
    first: tl.constexpr, rest: tl.constexpr, block_v: tl.constexpr,
    block_queries: tl.constexpr, block_keys: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    # The last queries of a causal head have the most keys: they start first.
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * block_queries
    query = start + tl.arange(0, block_queries)
    live = query < queries
    place = (
        q + (head // group) * q_kv_head + (head % group) * q_group + (query.to(tl.int64) * q_query)[:, None]
    )
    column = tl.arange(0, first)
    q_first = tl.load(place + column[None, :], mask=live[:, None] & (column < dim)[None, :], other=0.0)
    q_rest = q_first
    if rest:
        column = first + tl.arange(0, rest)
        q_rest = tl.load(place + column[None, :], mask=live[:, None] & (column < dim)[None, :], other=0.0)
    k += (head // group) * k_head
    v += (head // group) * v_head
    v_column = tl.arange(0, block_v)
    top = tl.full([block_queries], float("-inf"), tl.float32)
    total = tl.zeros([block_queries], tl.float32)
    mixed = tl.zeros([block_queries, block_v], tl.float32)
    end = tl.minimum(start + block_queries, keys) if causal else keys
    for begin in range(0, end, block_keys):
        key = begin + tl.arange(0, block_keys)
        scores = _scores(q_first, q_rest, k, key, keys, k_key, dim, first, rest) * (scale * LOG2_E)
        seen = (key < end)[None, :]
        if causal:
            seen = seen & (key[None, :] <= query[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        total, top = total * shrink + tl.sum(weights, 1), higher
        values = v + (key.to(tl.int64) * v_key)[:, None] + v_column[None, :]
        value = tl.load(values, mask=(key < keys)[:, None] & (v_column < v_dim)[None, :], other=0.0)
        mixed = dot_add(rounded(weights, value.dtype), value, mixed * shrink[:, None])
    row = head * queries + query
    target = out + (row * v_dim)[:, None] + v_column[None, :]
    mask = live[:, None] & (v_column < v_dim)[None, :]
    tl.store(target, rounded(mixed / total[:, None], out.dtype.element_ty), mask=mask)
    tl.store(logs + row, (top + tl.log2(total)) * LN_2, mask=live)


@jit
def _merge_kernel(
    first: Pointer,  # [rows, width]
    first_logs: Pointer,  # [rows] float32
    second: Pointer,  # [rows, width]
    second_logs: Pointer,  # [rows] float32
    out: Pointer,  # [rows, width]
    logs: Pointer,  # [rows] float32
    rows: Number,
    width: Number,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    column = tl.arange(0, block)
    live = row < rows
    mask = live[:, None] & (column < width)[None, :]
    place = (row * width)[:, None] + column[None, :]
    log_a = tl.load(first_logs + row, mask=live, other=0.0)
    log_b = tl.load(second_logs + row, mask=live, other=0.0)
    top = tl.maximum(log_a, log_b)
    log = top + tl.log(tl.exp(log_a - top) + tl.exp(log_b - top))
    a = tl.load(first + place, mask=mask, other=0.0).to(tl.float32) * tl.exp(log_a - log)[:, None]
    b = tl.load(second + place, mask=mask, other=0.0).to(tl.float32) * tl.exp(log_b - log)[:, None]
    tl.store(out + place, rounded(a + b, out.dtype.element_ty), mask=mask)
    tl.store(logs + row, log, mask=live)

"""GQA decode on a GPU over paged keys and values, keys split where the batch alone does not fill the GPU.

A program holds the query heads that share one key head, padded to the 16 rows a matrix unit takes. Each key
is read once for all of them; memory is the limit.
"""

import triton.language as tl
from torch import Tensor

from .jit import LOG2_E, Number, Pointer, dot, dot_add, jit, power_of_two, processors, rounded
from .split_kv_triton import Parts, part_bounds, split_count

BLOCK_KEYS = 64
STAGES = 3
PROGRAMS_A_PROCESSOR = 2  # more, smaller parts than processors keep more reads in flight


def gqa_paged_decode(
    q: Tensor, pool: Tensor, layer: int, tables: Tensor, context_lens: Tensor, *, scale: float
) -> Tensor:
    """Launch; shapes as in the reference."""
    batch, heads, dim = q.shape
    kv_heads, block_tokens = pool.shape[3:5]
    assert pool.is_contiguous(), "the pool is one contiguous tensor"
    assert pool.shape[5] == dim, f"{list(q.shape)} against pool {list(pool.shape)}"
    assert heads % kv_heads == 0, f"{list(q.shape)} against pool {list(pool.shape)}"
    assert q.stride(2) == tables.stride(1) == 1, "rows must be dense"
    assert tables.shape[0] == context_lens.shape[0] == batch, "one table and one length a sequence"
    out = q.new_empty(batch, heads, dim)
    if batch == 0:
        return out
    slots = processors(q.device) * PROGRAMS_A_PROCESSOR
    splits = split_count(batch * kv_heads, slots, tables.shape[1] * block_tokens)
    parts = Parts(batch * heads, splits, dim, q.device)
    _decode_kernel[(kv_heads, batch, splits)](
        q, pool, tables, context_lens, parts.out if splits > 1 else out, parts.logs,
        q.stride(0), q.stride(1), layer * pool.stride(1), pool.stride(0), pool.stride(2), pool.stride(3),
        tables.stride(0), heads // kv_heads, splits, scale, block_tokens, dim, max(power_of_two(dim), 16),
        max(power_of_two(heads // kv_heads), 16), BLOCK_KEYS, splits == 1, num_warps=4, num_stages=STAGES,
    )  # fmt: skip
    if splits > 1:
        parts.merge(out)
    return out


@jit
def _decode_kernel(
    q: Pointer,  # [batch, kv_heads * group, dim]
    pool: Pointer,  # [blocks, layers, 2, kv_heads, block_tokens, dim]
    tables: Pointer,  # [batch, max_blocks] int32
    lengths: Pointer,  # [batch] int32
    out: Pointer,  # [batch, heads, dim], or [batch, heads, splits, dim] float32
    logs: Pointer,  # [batch, heads, splits] float32, base 2
    q_row: Number, q_head: Number, layer_offset: Number, pool_block: Number, values_offset: Number,
    kv_head_offset: Number, table_row: Number, group: Number, splits: Number, scale: Number,
    block_tokens: tl.constexpr, dim: tl.constexpr, block_dim: tl.constexpr,
    block_group: tl.constexpr, block_keys: tl.constexpr, whole: tl.constexpr,
) -> None:  # fmt: skip
    kv_head, row, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    member, column = tl.arange(0, block_group), tl.arange(0, block_dim)
    head = kv_head * group + member
    mask = (member < group)[:, None] & (column < dim)[None, :]
    query = tl.load(q + row * q_row + (head * q_head)[:, None] + column[None, :], mask=mask, other=0.0)
    begin, end = part_bounds(tl.load(lengths + row), splits, part, block_keys)
    base = pool + layer_offset + kv_head * kv_head_offset
    top = tl.full([block_group], float("-inf"), tl.float32)
    total = tl.zeros([block_group], tl.float32)
    mixed = tl.zeros([block_group, block_dim], tl.float32)
    for start in range(begin, end, block_keys):
        key = start + tl.arange(0, block_keys)
        seen = key < end
        block = tl.load(tables + row * table_row + key // block_tokens, mask=seen, other=0).to(tl.int64)
        place = base + (block * pool_block + (key % block_tokens) * dim)[:, None] + column[None, :]
        inside = seen[:, None] & (column < dim)[None, :]
        keys = tl.load(place, mask=inside, other=0.0).to(query.dtype)
        scores = dot(query, tl.trans(keys)) * (scale * LOG2_E)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        total, top = total * shrink + tl.sum(weights, 1), higher
        values = tl.load(place + values_offset, mask=inside, other=0.0).to(query.dtype)
        mixed = dot_add(rounded(weights, query.dtype), values, mixed * shrink[:, None])
    some = total > 0.0
    mixed = tl.where(some[:, None], mixed / tl.where(some, total, 1.0)[:, None], 0.0)
    place = row * (group * tl.num_programs(0)) + head
    if whole:
        target = out + (place * dim)[:, None] + column[None, :]
        tl.store(target, rounded(mixed, out.dtype.element_ty), mask=mask)
    else:
        place = place * splits + part
        tl.store(out + (place * dim)[:, None] + column[None, :], mixed, mask=mask & some[:, None])
        log = tl.where(some, top + tl.log2(tl.where(some, total, 1.0)), float("-inf"))
        tl.store(logs + place, log, mask=member < group)

"""Absorbed MLA decode on a GPU over paged entries, keys split where the batch alone does not fill the GPU.

A program holds 64 heads of one sequence (the size at which Hopper's matrix units run full) and walks over
blocks of entries. An entry is loaded once and used twice, as key and, its first `rank` values, as value.
At 128 heads that is 242 operations a byte, above an H200's ridge of 206: the matrix units are the limit.
"""

import triton.language as tl
from torch import Tensor

from .jit import LOG2_E, Number, Pointer, Tile, ceil_div, dot, dot_add, jit, power_of_two, processors, rounded
from .split_kv_triton import Parts, part_bounds, split_count

MAX_BLOCK_HEADS = 64
BLOCK_KEYS = 64
STAGES = 2  # two blocks of 64 entries of 1,152 bytes beside 64 queries: 216 KiB of shared memory


def mla_paged_decode(
    q: Tensor,
    pool: Tensor,
    layer: int,
    tables: Tensor,
    context_lens: Tensor,
    *,
    rank: int,
    scale: float,
) -> Tensor:
    """Launch; shapes as in the reference."""
    batch, heads, width = q.shape
    block_tokens = pool.shape[2]
    assert pool.is_contiguous(), "the pool is one contiguous tensor"
    assert pool.shape[3] == width > rank, f"entries of {pool.shape[3]} values for queries of {width}"
    assert q.stride(2) == tables.stride(1) == 1, "rows must be dense"
    assert tables.shape[0] == context_lens.shape[0] == batch, "one table and one length a sequence"
    out = q.new_empty(batch, heads, rank)
    if batch == 0:
        return out
    block_heads = min(max(power_of_two(heads), 16), MAX_BLOCK_HEADS)
    head_blocks = ceil_div(heads, block_heads)
    splits = split_count(batch * head_blocks, processors(q.device), tables.shape[1] * block_tokens)
    parts = Parts(batch * heads, splits, rank, q.device)
    _decode_kernel[(head_blocks, batch, splits)](
        q, pool, tables, context_lens, parts.out if splits > 1 else out, parts.logs,
        q.stride(0), q.stride(1), layer * pool.stride(1), pool.stride(0), tables.stride(0), heads, splits,
        scale, block_tokens, rank, width - rank, max(power_of_two(rank), 16),
        max(power_of_two(width - rank), 16), block_heads, BLOCK_KEYS, splits == 1,
        num_warps=8, num_stages=STAGES,
    )  # fmt: skip
    if splits > 1:
        parts.merge(out)
    return out


@jit
def _load_queries(
    q: Pointer, head: Tile, heads: Number, q_head: Number, begin: tl.constexpr, width: tl.constexpr,
    block: tl.constexpr,
) -> Tile:  # fmt: skip
    column = tl.arange(0, block)
    mask = (head < heads)[:, None] & (column < width)[None, :]
    return tl.load(q + (head * q_head)[:, None] + (begin + column)[None, :], mask=mask, other=0.0)


@jit
def _load_entries(
    rows: Pointer, seen: Tile, begin: tl.constexpr, width: tl.constexpr, block: tl.constexpr
) -> Tile:
    column = tl.arange(0, block)
    mask = seen[:, None]
    if width < block:
        mask = mask & (column < width)[None, :]
    return tl.load(rows[:, None] + (begin + column)[None, :], mask=mask, other=0.0)


@jit
def _decode_kernel(
    q: Pointer,  # [batch, heads, rank + rope]
    pool: Pointer,  # [blocks, layers, block_tokens, rank + rope]
    tables: Pointer,  # [batch, max_blocks] int32
    lengths: Pointer,  # [batch] int32
    out: Pointer,  # [batch, heads, rank], or [batch, heads, splits, rank] float32
    logs: Pointer,  # [batch, heads, splits] float32, base 2
    q_row: Number, q_head: Number, layer_offset: Number, pool_block: Number, table_row: Number,
    heads: Number, splits: Number, scale: Number,
    block_tokens: tl.constexpr, rank: tl.constexpr, rope: tl.constexpr,
    block_rank: tl.constexpr, block_rope: tl.constexpr, block_heads: tl.constexpr, block_keys: tl.constexpr,
    whole: tl.constexpr,
) -> None:  # fmt: skip
    row, part = tl.program_id(1).to(tl.int64), tl.program_id(2)
    head = tl.program_id(0) * block_heads + tl.arange(0, block_heads)
    latent_q = _load_queries(q + row * q_row, head, heads, q_head, 0, rank, block_rank)
    rope_q = _load_queries(q + row * q_row, head, heads, q_head, rank, rope, block_rope)
    begin, end = part_bounds(tl.load(lengths + row), splits, part, block_keys)
    top = tl.full([block_heads], float("-inf"), tl.float32)
    total = tl.zeros([block_heads], tl.float32)
    mixed = tl.zeros([block_heads, block_rank], tl.float32)
    for start in range(begin, end, block_keys):
        key = start + tl.arange(0, block_keys)
        seen = key < end
        block = tl.load(tables + row * table_row + key // block_tokens, mask=seen, other=0).to(tl.int64)
        rows = pool + layer_offset + block * pool_block + (key % block_tokens) * (rank + rope)
        latent = _load_entries(rows, seen, 0, rank, block_rank).to(latent_q.dtype)
        turned = _load_entries(rows, seen, rank, rope, block_rope).to(latent_q.dtype)
        scores = dot_add(rope_q, tl.trans(turned), dot(latent_q, tl.trans(latent))) * (scale * LOG2_E)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        total, top = total * shrink + tl.sum(weights, 1), higher
        mixed = dot_add(rounded(weights, latent.dtype), latent, mixed * shrink[:, None])
    column = tl.arange(0, block_rank)
    mask = (head < heads)[:, None] & (column < rank)[None, :]
    some = total > 0.0
    mixed = tl.where(some[:, None], mixed / tl.where(some, total, 1.0)[:, None], 0.0)
    place = row * heads + head
    if whole:
        target = out + (place * rank)[:, None] + column[None, :]
        tl.store(target, rounded(mixed, out.dtype.element_ty), mask=mask)
    else:
        place = place * splits + part
        tl.store(out + (place * rank)[:, None] + column[None, :], mixed, mask=mask & some[:, None])
        tl.store(logs + place, tl.where(some, top + tl.log2(tl.where(some, total, 1.0)), float("-inf")),
                 mask=head < heads)  # fmt: skip

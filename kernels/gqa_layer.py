"""Grouped attention of a layer for one token a sequence: from the normalised input to the output."""

from dataclasses import dataclass

from torch import Tensor

from .by_device import on_cpu
from .gqa_decode import gqa_paged_decode
from .kv_rows import write_rows
from .linear import Weight, multiply, multiply_columns
from .paged_step import PagedRows
from .rms_norm import rms_norm_
from .rope import rope_halves_


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class GqaLayer:
    """The matrices of a layer, and what is done between them."""

    qkv: Weight
    """[hidden, (heads + 2 * kv_heads) * head_dim]"""
    qk_norm: Tensor
    """[heads + kv_heads, head_dim], the queries' norm for each head, then the keys'"""
    out: Weight
    """[heads * head_dim, hidden]"""
    kv_heads: int
    eps: float
    scale: float

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.qk_norm.shape[0] - self.kv_heads


@on_cpu
def gqa_decode_layer(x: Tensor, pool: Tensor, layer: GqaLayer, step: PagedRows) -> Tensor:
    """Write the tokens' KV and attend.

    x        [batch, hidden], normalised
    pool     [blocks, layers, 2, kv_heads, block_tokens, dim]
    returns  [batch, hidden]
    """
    q, kv = gqa_project(x, layer, step.turns)
    write_rows(pool, step.rows, kv)
    mixed = gqa_paged_decode(q, pool, step.layer, step.tables, step.lengths, scale=layer.scale)
    return multiply(mixed.flatten(1), layer.out)


def gqa_project(x: Tensor, layer: GqaLayer, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [tokens, heads, dim]; keys, then values, [tokens, 2 * kv_heads, dim]; rotated but values."""
    heads = layer.heads
    qkv = multiply(x, layer.qkv).view(x.shape[0], heads + 2 * layer.kv_heads, -1)
    turned = qkv[:, : heads + layer.kv_heads]
    rms_norm_(turned, layer.qk_norm, layer.eps)
    rope_halves_(turned, turns)
    return qkv[:, :heads], qkv[:, heads:]


def gqa_project_kv(x: Tensor, layer: GqaLayer, turns: Tensor) -> Tensor:
    """The second of what `gqa_project` returns, without the first."""
    heads, keys = layer.heads, layer.kv_heads
    dim = layer.qk_norm.shape[1]
    kv = multiply_columns(x, layer.qkv, heads * dim).view(x.shape[0], 2 * keys, dim)
    rms_norm_(kv[:, :keys], layer.qk_norm[heads:], layer.eps)
    rope_halves_(kv[:, :keys], turns)
    return kv

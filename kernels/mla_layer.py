"""Absorbed attention of a layer for one token a sequence: from the normalised input to the output."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .by_device import on_cpu
from .kv_rows import write_rows
from .linear import Weight, multiply
from .mla_decode import mla_paged_decode
from .paged_step import PagedRows
from .rms_norm import rms_norm, rms_norm_
from .rope import rope_interleaved_


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class MlaLayer:
    """The matrices of a layer, and what is done between them."""

    first: Weight
    """[hidden, q_lora_rank + latent_dim], or [hidden, heads * qk_head_dim + latent_dim] without query rank"""
    q_norm: Tensor | None
    q_b: Weight | None
    """[q_lora_rank, heads * qk_head_dim]"""
    kv_norm: Tensor
    absorb_keys: Tensor
    """[heads, nope_dim, kv_lora_rank]"""
    absorb_values: Tensor
    """[heads, kv_lora_rank, v_dim]"""
    out: Weight
    """[heads * v_dim, hidden]"""
    eps: float
    """Of the norms of queries and latents"""
    scale: float

    @property
    def latent_dim(self) -> int:
        """Values of a cache entry: latent and rotated key."""
        return self.first.shape[1] - self.query_width

    @property
    def query_width(self) -> int:
        """Columns of `first` that are queries, or what they are made of."""
        if self.q_b is not None:
            return self.q_b.shape[0]
        heads, nope, rank = self.absorb_keys.shape
        # `first` is [.., heads * (nope + rope) + rank + rope]
        rope = (self.first.shape[1] - heads * nope - rank) // (heads + 1)
        return heads * (nope + rope)


@on_cpu
def mla_decode_layer(x: Tensor, pool: Tensor, layer: MlaLayer, step: PagedRows) -> Tensor:
    """Write the tokens' KV and attend.

    x        [batch, hidden], normalised
    pool     [blocks, layers, block_tokens, latent_dim]
    returns  [batch, hidden]
    """
    q, entries = mla_project(x, layer, step.turns)
    write_rows(pool, step.rows, entries)
    rank, scale = layer.absorb_keys.shape[2], layer.scale
    latent_q = mla_absorb(q, layer)
    mixed = mla_paged_decode(latent_q, pool, step.layer, step.tables, step.lengths, rank=rank, scale=scale)
    return mla_expand(mixed, layer)


def mla_project(x: Tensor, layer: MlaLayer, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [tokens, heads, qk_head_dim] and cache entries [tokens, latent_dim], both rotated."""
    width = layer.query_width
    first = multiply(x, layer.first)
    q, entries = first[:, :width], first[:, width:]
    if layer.q_norm is not None and layer.q_b is not None:
        q = multiply(rms_norm(q, layer.q_norm, layer.eps), layer.q_b)
    heads, nope, _ = layer.absorb_keys.shape
    q = q.view(x.shape[0], heads, -1)
    mla_finish(entries, layer, turns)
    rope_interleaved_(q[..., nope:], turns.unsqueeze(1))
    return q, entries


def mla_finish(entries: Tensor, layer: MlaLayer, turns: Tensor) -> None:
    """Normalise and rotate cache entries in place: [tokens, latent_dim]."""
    rank = layer.absorb_keys.shape[2]
    rms_norm_(entries[:, :rank], layer.kv_norm, layer.eps)
    rope_interleaved_(entries[:, rank:], turns)


def mla_absorb(q: Tensor, layer: MlaLayer) -> Tensor:
    """Queries [tokens, heads, qk_head_dim] against latents: [tokens, heads, latent_dim]."""
    nope = layer.absorb_keys.shape[1]
    absorbed = torch.bmm(q[..., :nope].transpose(0, 1), layer.absorb_keys).transpose(0, 1)
    return torch.cat((absorbed, q[..., nope:]), -1)


def mla_expand(mixed: Tensor, layer: MlaLayer) -> Tensor:
    """Mixed latents [tokens, heads, kv_lora_rank] through values and output projection: [tokens, hidden]."""
    values = torch.bmm(mixed.transpose(0, 1), layer.absorb_values)
    return multiply(values.transpose(0, 1).flatten(1), layer.out)

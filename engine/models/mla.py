"""Multi-head latent attention (arXiv 2405.04434): the cache holds one latent and one rotated key a token."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...kernels.by_device import reads_blocks
from ...kernels.kv_rows import mla_token_rows, read_rows, table_token_rows, write_rows
from ...kernels.linear import multiply, multiply_columns
from ...kernels.mla_decode import mla_decode_attention
from ...kernels.mla_layer import (
    MlaLayer,
    mla_absorb,
    mla_decode_layer,
    mla_expand,
    mla_finish,
    mla_project,
)
from ...kernels.mla_prefill import MlaExpansion, mla_prefill_attention
from ...kernels.paged_step import PagedStep
from ...kvtransfer.layout import KvFormat
from ..batch import DecodeBatch, PrefillBatch
from ..checkpoint.weights import Weights
from .attention import DecodeGroup, DecodeStep, PrefillStep, decode_groups, ending_rows
from .config import MlaConfig, ModelConfig
from .decode_window import DecodeWindow
from .rope_table import softmax_scale

LATENT_NORM_EPS = 1e-6  # the published code fixes it, whatever rms_norm_eps says


class MlaGeometry:
    """The pool is `[blocks, layers, block_tokens, kv_lora_rank + rope_dim]`."""

    format = KvFormat.MLA
    kv_heads = 1

    def __init__(self, attention: MlaConfig, num_layers: int) -> None:
        self.values_per_token = attention.latent_dim
        self._layers = num_layers
        self._window = DecodeWindow(planes=1, heads=1)

    def pool_shape(self, num_blocks: int, block_tokens: int) -> tuple[int, ...]:
        """Shape of the KV pool."""
        return (num_blocks, self._layers, block_tokens, self.values_per_token)

    def prefill_step(self, batch: PrefillBatch, pool: Tensor, table: Tensor) -> PrefillStep:
        """Prepare a prefill step; context rows are those of tokens."""
        tokens = pool.shape[2]
        context_rows = [
            table_token_rows(blocks.unsqueeze(0), length, self._layers, tokens).flatten()
            for blocks, length in zip(batch.block_tables, batch.context_lens, strict=True)
        ]
        return PrefillStep(
            turns=table.index_select(0, batch.positions),
            token_rows=list(mla_token_rows(batch.slots, self._layers, tokens).unbind(0)),
            query_starts=batch.query_starts,
            context_lens=batch.context_lens,
            context_rows=context_rows,
            layer_rows=tokens,
            ends=self.paged_step(ending_rows(batch), pool, table) if reads_blocks(pool) else None,
        )

    def decode_step(self, batch: DecodeBatch, pool: Tensor, table: Tensor) -> DecodeStep | PagedStep:
        """Prepare a decode step of live rows."""
        if reads_blocks(pool):
            self._window.give_up()
            return self.paged_step(batch.live_rows(), pool, table)
        live, tokens, width = batch.live, *pool.shape[2:]

        def read_pool(tables: Tensor, keys: int) -> Callable[[int], Tensor]:
            rows = table_token_rows(tables, keys, self._layers, tokens).flatten()
            return lambda layer: read_rows(pool, rows + layer * tokens, width).view(1, -1, keys, width)

        groups, window = decode_groups(batch, pool, self._window, read_pool)
        return DecodeStep(
            turns=table.index_select(0, batch.positions[:live]),
            token_rows=list(mla_token_rows(batch.slots[:live], self._layers, tokens).unbind(0)),
            groups=groups,
            window=window,
        )

    def paged_step(self, batch: DecodeBatch, pool: Tensor, table: Tensor) -> PagedStep:
        """Prepare a decode step whose shapes only the bucket decides."""
        return PagedStep(
            turns=table.index_select(0, batch.positions),
            token_rows=mla_token_rows(batch.slots, self._layers, pool.shape[2]),
            tables=batch.block_tables,
            lengths=batch.context_lens,
        )


def read_mla(weights: Weights, prefix: str, config: ModelConfig, mla: MlaConfig) -> "MlaAttention":
    """Read one layer's attention."""
    rank, heads = mla.q_lora_rank, config.num_heads
    queries = heads * mla.qk_head_dim
    head = (f"{prefix}.q_a_proj.weight", rank) if rank else (f"{prefix}.q_proj.weight", queries)
    latent = (f"{prefix}.kv_a_proj_with_mqa.weight", mla.latent_dim)
    expanded = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    first = weights.linear([head, latent], config.hidden_size)
    kv_b = weights.projection([(f"{prefix}.kv_b_proj.weight", expanded)], mla.kv_lora_rank)
    by_head = kv_b.view(mla.kv_lora_rank, heads, -1)
    keys, values = torch.split(by_head, [mla.qk_nope_head_dim, mla.v_head_dim], -1)
    layer = MlaLayer(
        first=first,
        q_norm=weights.tensor(f"{prefix}.q_a_layernorm.weight", (rank,)) if rank else None,
        q_b=weights.linear([(f"{prefix}.q_b_proj.weight", queries)], rank) if rank else None,
        kv_norm=weights.tensor(f"{prefix}.kv_a_layernorm.weight", (mla.kv_lora_rank,)),
        absorb_keys=keys.permute(1, 2, 0).contiguous(),
        absorb_values=values.transpose(0, 1).contiguous(),
        out=weights.linear([(f"{prefix}.o_proj.weight", config.hidden_size)], heads * mla.v_head_dim),
        eps=LATENT_NORM_EPS,
        scale=softmax_scale(mla.qk_head_dim, config.rope),
    )
    return MlaAttention(layer, MlaExpansion(kv_b, heads, mla.qk_nope_head_dim, mla.v_head_dim))


class MlaAttention:
    """One layer: prefill expands latents, decode absorbs the expansion into queries and outputs."""

    def __init__(self, layer: MlaLayer, expansion: MlaExpansion) -> None:
        self.weights = layer
        self._expansion = expansion

    def prefill(self, x: Tensor, pool: Tensor, step: PrefillStep, layer: int) -> Tensor:
        """Write the chunk's KV and attend."""
        q, entries = self.enter(x, pool, step.turns, step.token_rows[layer])
        return self.leave(self.attend_prompts(q, entries, pool, step, layer))

    def enter(self, x: Tensor, pool: Tensor, turns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [tokens, heads, qk_head_dim] and cache entries [tokens, latent_dim], now in the cache."""
        q, entries = mla_project(x, self.weights, turns)
        write_rows(pool, rows, entries)
        return q, entries

    def write(self, x: Tensor, pool: Tensor, turns: Tensor, rows: Tensor) -> None:
        """Write the tokens' KV without attending."""
        entries = multiply_columns(x, self.weights.first, self.weights.query_width)
        mla_finish(entries, self.weights, turns)
        write_rows(pool, rows, entries)

    def attend_prompts(self, q: Tensor, new: Tensor, pool: Tensor, step: PrefillStep, layer: int) -> Tensor:
        """Attend unabsorbed: [tokens, heads * v]."""
        return mla_prefill_attention(
            q,
            new,
            pool,
            query_starts=step.query_starts,
            context_rows=step.context_rows_of(layer),
            expansion=self._expansion,
            scale=self.weights.scale,
        )

    def leave(self, attended: Tensor) -> Tensor:
        """Project what heads have attended to."""
        return multiply(attended, self.weights.out)

    def decode(self, x: Tensor, pool: Tensor, step: DecodeStep | PagedStep, layer: int) -> Tensor:
        """Write the tokens' KV and attend."""
        if isinstance(step, PagedStep):
            return mla_decode_layer(x, pool, self.weights, step.rows_of(layer))
        q, entries = self.enter(x, pool, step.turns, step.token_rows[layer])
        step.note(layer, entries)
        rank, scale = self._expansion.weight.shape[0], self.weights.scale

        def attend(latent_q: Tensor, group: DecodeGroup) -> Tensor:
            return mla_decode_attention(latent_q, group.read(layer)[0], group.mask, rank=rank, scale=scale)

        return mla_expand(step.attend(mla_absorb(q, self.weights), attend), self.weights)

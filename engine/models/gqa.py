"""Grouped-query attention with normalised queries and keys (Qwen3); keys and values are cached by head."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...kernels.by_device import reads_blocks
from ...kernels.gqa_decode import gqa_decode_attention
from ...kernels.gqa_layer import GqaLayer, gqa_decode_layer, gqa_project, gqa_project_kv
from ...kernels.gqa_prefill import gqa_prefill_attention
from ...kernels.kv_rows import gqa_token_rows, keys_then_values, table_block_rows, write_rows
from ...kernels.linear import multiply
from ...kernels.paged_step import PagedStep
from ...kvtransfer.layout import KvFormat
from ..batch import DecodeBatch, PrefillBatch
from ..checkpoint.weights import Weights
from .attention import DecodeGroup, DecodeStep, PrefillStep, decode_groups, ending_rows
from .config import GqaConfig, ModelConfig
from .decode_window import DecodeWindow


class GqaGeometry:
    """The pool is `[blocks, layers, 2, kv_heads, block_tokens, head_dim]`."""

    format = KvFormat.GQA

    def __init__(self, attention: GqaConfig, num_layers: int) -> None:
        self.kv_heads = attention.kv_heads
        self.values_per_token = 2 * attention.head_dim
        self._layers = num_layers
        self._window = DecodeWindow(planes=2, heads=attention.kv_heads)

    def pool_shape(self, num_blocks: int, block_tokens: int) -> tuple[int, ...]:
        """Shape of the KV pool."""
        return (num_blocks, self._layers, 2, self.kv_heads, block_tokens, self.values_per_token // 2)

    def prefill_step(self, batch: PrefillBatch, pool: Tensor, table: Tensor) -> PrefillStep:
        """Prepare a prefill step; context rows are those of blocks, `[2 * kv_heads, blocks]` a sequence."""
        tokens, planes = pool.shape[4], 2 * self.kv_heads
        context_rows = [
            table_block_rows(blocks[None, : -(-length // tokens)], self._layers, planes)[0]
            for blocks, length in zip(batch.block_tables, batch.context_lens, strict=True)
        ]
        rows = gqa_token_rows(batch.slots, self._layers, self.kv_heads, tokens)
        return PrefillStep(
            turns=table.index_select(0, batch.positions).unsqueeze(1),
            token_rows=list(rows.unbind(0)),
            query_starts=batch.query_starts,
            context_lens=batch.context_lens,
            context_rows=context_rows,
            layer_rows=planes,
            ends=self.paged_step(ending_rows(batch), pool, table) if reads_blocks(pool) else None,
        )

    def decode_step(self, batch: DecodeBatch, pool: Tensor, table: Tensor) -> DecodeStep | PagedStep:
        """Prepare a decode step of live rows."""
        if reads_blocks(pool):
            self._window.give_up()
            return self.paged_step(batch.live_rows(), pool, table)
        live, tokens, dim = batch.live, *pool.shape[4:]
        planes = 2 * self.kv_heads

        def read_pool(tables: Tensor, keys: int) -> Callable[[int], Tensor]:
            blocks = table_block_rows(tables[:, : -(-keys // tokens)], self._layers, planes)
            rows = keys_then_values(blocks)
            used = pool.view(-1, tokens * dim)[:, : min(keys, tokens) * dim]  # a lone block up to its keys
            heads = tables.shape[0] * self.kv_heads
            return lambda layer: used.index_select(0, rows + layer * planes).view(2, heads, -1, dim)[
                :, :, :keys
            ]

        groups, window = decode_groups(batch, pool, self._window, read_pool)
        rows = gqa_token_rows(batch.slots[:live], self._layers, self.kv_heads, tokens)
        return DecodeStep(
            turns=table.index_select(0, batch.positions[:live]).unsqueeze(1),
            token_rows=list(rows.unbind(0)),
            groups=groups,
            window=window,
        )

    def paged_step(self, batch: DecodeBatch, pool: Tensor, table: Tensor) -> PagedStep:
        """Prepare a decode step whose shapes only the bucket decides."""
        return PagedStep(
            turns=table.index_select(0, batch.positions).unsqueeze(1),
            token_rows=gqa_token_rows(batch.slots, self._layers, self.kv_heads, pool.shape[4]),
            tables=batch.block_tables,
            lengths=batch.context_lens,
        )


def read_gqa(weights: Weights, prefix: str, config: ModelConfig, gqa: GqaConfig) -> GqaLayer:
    """Read one layer's attention."""
    heads, dim = {"q": config.num_heads, "k": gqa.kv_heads, "v": gqa.kv_heads}, gqa.head_dim
    norms = [weights.tensor(f"{prefix}.{part}_norm.weight", (dim,)).expand(heads[part], -1) for part in "qk"]
    parts = [(f"{prefix}.{part}_proj.weight", count * dim) for part, count in heads.items()]
    return GqaLayer(
        qkv=weights.linear(parts, config.hidden_size),
        qk_norm=torch.cat(norms),
        out=weights.linear([(f"{prefix}.o_proj.weight", config.hidden_size)], config.num_heads * dim),
        kv_heads=gqa.kv_heads,
        eps=config.rms_norm_eps,
        scale=dim**-0.5,
    )


class GqaAttention:
    """One layer."""

    def __init__(self, layer: GqaLayer) -> None:
        self.weights = layer

    def prefill(self, x: Tensor, pool: Tensor, step: PrefillStep, layer: int) -> Tensor:
        """Write the chunk's KV and attend."""
        q, kv = self.enter(x, pool, step.turns, step.token_rows[layer])
        return self.leave(self.attend_prompts(q, kv, pool, step, layer))

    def attend_prompts(self, q: Tensor, new: Tensor, pool: Tensor, step: PrefillStep, layer: int) -> Tensor:
        """Attend: [tokens, heads * dim]."""
        k, v = new.chunk(2, 1)
        return gqa_prefill_attention(
            q,
            k,
            v,
            pool,
            query_starts=step.query_starts,
            context_lens=step.context_lens,
            context_rows=step.context_rows_of(layer),
            scale=self.weights.scale,
        )

    def leave(self, attended: Tensor) -> Tensor:
        """Project what heads have attended to."""
        return multiply(attended, self.weights.out)

    def decode(self, x: Tensor, pool: Tensor, step: DecodeStep | PagedStep, layer: int) -> Tensor:
        """Write the tokens' KV and attend."""
        if isinstance(step, PagedStep):
            return gqa_decode_layer(x, pool, self.weights, step.rows_of(layer))
        q, kv = self.enter(x, pool, step.turns, step.token_rows[layer])
        step.note(layer, kv.flatten(0, 1))

        def attend(queries: Tensor, group: DecodeGroup) -> Tensor:
            return gqa_decode_attention(queries, group.read(layer), group.mask, scale=self.weights.scale)

        return self.leave(step.attend(q, attend).flatten(1))

    def write(self, x: Tensor, pool: Tensor, turns: Tensor, rows: Tensor) -> None:
        """Write the tokens' KV without attending."""
        write_rows(pool, rows, gqa_project_kv(x, self.weights, turns))

    def enter(self, x: Tensor, pool: Tensor, turns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [tokens, heads, dim]; keys, then values, [tokens, 2 * kv_heads, dim], now in the cache."""
        q, kv = gqa_project(x, self.weights, turns)
        write_rows(pool, rows, kv)
        return q, kv

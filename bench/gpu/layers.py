"""The layers of a decode or prefill step as one GPU of many runs them, made of `kernels/` alone.

What the network brings is taken as given: the experts' rows lie in a buffer as a dispatch would have left
them, and the sums that a combine would return in another. Products, MLPs, experts and attention of prompts
are the functions that models call. Inside `by_device.references` a layer is computed in torch, so that it can
be checked as its kernels are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.gate import gate_sigmoid_grouped
from ...kernels.kv_rows import write_rows
from ...kernels.linear import gated_mlp, multiply
from ...kernels.mla_decode import mla_paged_decode
from ...kernels.mla_prefill import MlaExpansion, mla_prefill_attention
from ...kernels.moe.experts_grouped import masked, tiled
from ...kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_
from ...kernels.rope import rope_interleaved_
from .model import Model
from .weights import AttentionWeights, MoeWeights

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class DecodeState:
    """The buffers of a step, which a CUDA graph would hold."""

    x: Tensor
    """[batch, hidden] bfloat16, what the layer before added nothing to yet"""
    residual: Tensor
    pool: Tensor
    """[blocks, 1, block_tokens, rank + rope] bfloat16"""
    tables: Tensor
    lengths: Tensor
    rows: Tensor
    """[batch] int64, where each token's entry goes in the pool seen as rows"""
    turns: Tensor
    received: Tensor
    """[owned, capacity, hidden] float8_e4m3fn, rows for this GPU's experts from all GPUs"""
    received_scales: Tensor
    counts: Tensor
    """[owned] int32"""
    combined: Tensor
    """[batch, hidden] bfloat16, what the experts of all GPUs give for this GPU's tokens"""
    expected: int
    """Rows an expert gets on average"""


@dataclass(frozen=True, slots=True)
class PrefillState:
    """The buffers of a chunk of whole prompts of one length."""

    x: Tensor
    """[tokens, hidden] bfloat16"""
    residual: Tensor
    prompt: int
    """Tokens of each prompt"""
    turns: Tensor
    received: Tensor
    """[rows, hidden] float8_e4m3fn, grouped by expert"""
    received_scales: Tensor
    tile_experts: Tensor
    combined: Tensor
    pool: Tensor
    """Holds no context"""
    no_rows: Tensor
    """[0] int64"""


def decode_attention(model: Model, weights: AttentionWeights, state: DecodeState) -> Tensor:
    """From the residual stream to what attention adds to it: [batch, hidden]."""
    q, entries = _project(model, weights, state)
    write_rows(state.pool, state.rows, entries)
    absorbed = torch.bmm(q[..., : model.nope].transpose(0, 1), weights.absorb_keys).transpose(0, 1)
    latent = mla_paged_decode(
        torch.cat((absorbed, q[..., model.nope :]), -1),
        state.pool,
        0,
        state.tables,
        state.lengths,
        rank=model.rank,
        scale=(model.nope + model.rope) ** -0.5,
    )
    values = torch.bmm(latent.transpose(0, 1), weights.absorb_values)
    return multiply(values.transpose(0, 1).flatten(1), weights.out)


def prefill_attention(model: Model, weights: AttentionWeights, state: PrefillState) -> Tensor:
    """From the residual stream to what attention adds to it: [tokens, hidden]."""
    q, entries = _project(model, weights, state)
    prompts = len(q) // state.prompt
    attended = mla_prefill_attention(
        q,
        entries,
        state.pool,
        query_starts=[prompt * state.prompt for prompt in range(prompts + 1)],
        context_rows=[state.no_rows] * prompts,
        expansion=MlaExpansion(weights.expand, model.heads, model.nope, model.value),
        scale=(model.nope + model.rope) ** -0.5,
    )
    return multiply(attended, weights.out)


def decode_moe(
    model: Model, weights: MoeWeights, state: DecodeState, attended: Tensor
) -> tuple[Tensor, Tensor]:
    """What the shared expert and the experts elsewhere add, and this GPU's experts' outputs for a combine."""
    x = _route(model, weights, attended, state.residual)
    rows = (state.received, state.received_scales)
    outputs = masked(rows, state.counts, weights.routed, state.expected)
    return gated_mlp(x, *weights.shared).add_(state.combined), outputs


def prefill_moe(
    model: Model, weights: MoeWeights, state: PrefillState, attended: Tensor
) -> tuple[Tensor, Tensor]:
    """As `decode_moe`, the experts' rows contiguous."""
    x = _route(model, weights, attended, state.residual)
    outputs = tiled((state.received, state.received_scales), state.tile_experts, weights.routed)
    return gated_mlp(x, *weights.shared).add_(state.combined), outputs


def _route(model: Model, weights: MoeWeights, attended: Tensor, residual: Tensor) -> Tensor:
    """The normalised rows, after the router has chosen experts for them."""
    x = add_rms_norm(attended, residual, weights.norm, EPS)
    logits = torch.mm(x, weights.router).float()
    gate_sigmoid_grouped(
        logits,
        weights.bias,
        top_k=model.top_k,
        num_groups=model.groups,
        top_groups=model.top_groups,
        normalise=True,
        scale=2.5,
    )
    return x


def _project(
    model: Model, weights: AttentionWeights, state: DecodeState | PrefillState
) -> tuple[Tensor, Tensor]:
    """Queries [tokens, heads, nope + rope] and cache entries [tokens, rank + rope], both rotated."""
    x, turns = state.x, state.turns
    normalised = add_rms_norm(x, state.residual, weights.norm, EPS)
    first = multiply(normalised, weights.first)
    compressed, entries = first[:, : model.query_rank], first[:, model.query_rank :]
    q = multiply(rms_norm(compressed, weights.query_norm, EPS), weights.query)
    q = q.view(len(x), model.heads, -1)
    rms_norm_(entries[:, : model.rank], weights.latent_norm, EPS)
    rope_interleaved_(entries[:, model.rank :], turns)
    rope_interleaved_(q[..., model.nope :], turns.unsqueeze(1))
    return q, entries

"""The layers of a decode or prefill step as one GPU of many runs them, made of `kernels/` alone.

What the network brings is taken as given: the experts' rows lie in a buffer as a dispatch would have left
them, and the sums that a combine would return in another. Each function takes the *form* of the operations,
Triton or reference, so that a whole layer can be checked as its kernels are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.attention import attend
from ...kernels.fp8 import quantise_groups
from ...kernels.gate import gate_sigmoid_grouped
from ...kernels.kv_rows import write_rows
from ...kernels.linear import linear_fp8
from ...kernels.mla_decode import mla_paged_decode
from ...kernels.moe.grouped_gemm import grouped_gemm_fp8, grouped_gemm_fp8_masked
from ...kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_
from ...kernels.rope import rope_interleaved_
from ...kernels.silu_mul import silu_mul_quantise, silu_mul_quantise_masked
from .model import Model
from .weights import AttentionWeights, Matrix, MlpWeights, MoeWeights

Form = Callable[[Callable[..., Any]], Callable[..., Any]]
"""`kernels.by_device.launcher` or `kernels.by_device.reference`"""
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


def decode_attention(form: Form, model: Model, weights: AttentionWeights, state: DecodeState) -> Tensor:
    """From the residual stream to what attention adds to it: [batch, hidden]."""
    q, entries = _project(form, model, weights, state)
    form(write_rows)(state.pool, state.rows, entries)
    absorbed = torch.bmm(q[..., : model.nope].transpose(0, 1), weights.absorb_keys).transpose(0, 1)
    latent = form(mla_paged_decode)(
        torch.cat((absorbed, q[..., model.nope :]), -1),
        state.pool,
        0,
        state.tables,
        state.lengths,
        rank=model.rank,
        scale=(model.nope + model.rope) ** -0.5,
    )
    values = torch.bmm(latent.transpose(0, 1), weights.absorb_values)
    return _linear(form, values.transpose(0, 1).flatten(1), weights.out)


def prefill_attention(form: Form, model: Model, weights: AttentionWeights, state: PrefillState) -> Tensor:
    """From the residual stream to what attention adds to it: [tokens, hidden]."""
    q, entries = _project(form, model, weights, state)
    expanded = torch.mm(entries[:, : model.rank], weights.expand).view(len(q), model.heads, -1)
    keys = torch.empty_like(q)
    keys[..., : model.nope] = expanded[..., : model.nope]
    keys[..., model.nope :] = entries[:, None, model.rank :]
    values = expanded[..., model.nope :]
    parts = []
    for start in range(0, len(q), state.prompt):
        prompt = slice(start, start + state.prompt)
        out, _ = form(attend)(
            q[prompt].transpose(0, 1).unsqueeze(1),
            keys[prompt].transpose(0, 1),
            values[prompt].transpose(0, 1),
            scale=(model.nope + model.rope) ** -0.5,
            causal=True,
        )
        parts.append(out.squeeze(1).transpose(0, 1).flatten(1))
    return _linear(form, torch.cat(parts), weights.out)


def decode_moe(
    form: Form, model: Model, weights: MoeWeights, state: DecodeState, attended: Tensor
) -> tuple[Tensor, Tensor]:
    """What the shared expert and the experts elsewhere add, and this GPU's experts' outputs for a combine."""
    x = _route(form, model, weights, attended, state.residual)
    hidden = form(grouped_gemm_fp8_masked)(
        state.received, state.received_scales, *weights.routed.gate_up, state.counts, expected=state.expected
    )
    activated = form(silu_mul_quantise_masked)(hidden, state.counts)
    outputs = form(grouped_gemm_fp8_masked)(
        *activated, *weights.routed.down, state.counts, expected=state.expected
    )
    return dense_mlp(form, weights.shared, x).add_(state.combined), outputs


def prefill_moe(
    form: Form, model: Model, weights: MoeWeights, state: PrefillState, attended: Tensor
) -> tuple[Tensor, Tensor]:
    """As `decode_moe`, the experts' rows contiguous."""
    x = _route(form, model, weights, attended, state.residual)
    hidden = form(grouped_gemm_fp8)(
        state.received, state.received_scales, *weights.routed.gate_up, state.tile_experts
    )
    activated = form(silu_mul_quantise)(hidden)
    outputs = form(grouped_gemm_fp8)(*activated, *weights.routed.down, state.tile_experts)
    return dense_mlp(form, weights.shared, x).add_(state.combined), outputs


def dense_mlp(form: Form, weights: MlpWeights, x: Tensor) -> Tensor:
    """A gated MLP on rows in bfloat16."""
    hidden = _linear(form, x, weights.gate_up)
    out: Tensor = form(linear_fp8)(*form(silu_mul_quantise)(hidden), *weights.down)
    return out


def _route(form: Form, model: Model, weights: MoeWeights, attended: Tensor, residual: Tensor) -> Tensor:
    """The normalised rows, after the router has chosen experts for them."""
    x: Tensor = form(add_rms_norm)(attended, residual, weights.norm, EPS)
    logits = torch.mm(x, weights.router).float()
    form(gate_sigmoid_grouped)(
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
    form: Form, model: Model, weights: AttentionWeights, state: DecodeState | PrefillState
) -> tuple[Tensor, Tensor]:
    """Queries [tokens, heads, nope + rope] and cache entries [tokens, rank + rope], both rotated."""
    x, turns = state.x, state.turns
    normalised = form(add_rms_norm)(x, state.residual, weights.norm, EPS)
    first = _linear(form, normalised, weights.first)
    compressed, entries = first[:, : model.query_rank], first[:, model.query_rank :]
    q = _linear(form, form(rms_norm)(compressed, weights.query_norm, EPS), weights.query)
    q = q.view(len(x), model.heads, -1)
    form(rms_norm_)(entries[:, : model.rank], weights.latent_norm, EPS)
    form(rope_interleaved_)(entries[:, model.rank :], turns)
    form(rope_interleaved_)(q[..., model.nope :], turns.unsqueeze(1))
    return q, entries


def _linear(form: Form, x: Tensor, weight: Matrix) -> Tensor:
    out: Tensor = form(linear_fp8)(*form(quantise_groups)(x), *weight)
    return out

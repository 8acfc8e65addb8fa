"""Random weights of the layers that the slice runs, block-FP8 as published ones are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.fp8 import quantise_blocks
from ...kernels.linear import Fp8Weight
from ...kernels.moe.experts import ExpertWeights
from .case import Inputs
from .model import Model

MlpWeights = tuple[Fp8Weight, Fp8Weight]
"""`gate_up` and `down` of a gated MLP"""


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """One layer's attention."""

    norm: Tensor
    first: Fp8Weight
    query_norm: Tensor
    query: Fp8Weight
    latent_norm: Tensor
    absorb_keys: Tensor
    """[heads, nope, rank] bfloat16"""
    absorb_values: Tensor
    """[heads, rank, value] bfloat16"""
    expand: Tensor
    """[rank, heads * (nope + value)] bfloat16, what prefill uses in place of the two above"""
    out: Fp8Weight


@dataclass(frozen=True, slots=True)
class MoeWeights:
    """One layer's mixture of experts."""

    norm: Tensor
    router: Tensor
    """[hidden, experts] bfloat16"""
    bias: Tensor
    shared: MlpWeights
    routed: ExpertWeights
    """Of the experts that this GPU owns"""


def attention_weights(make: Inputs, model: Model) -> AttentionWeights:
    """Draw one layer's attention."""
    heads, rank = model.heads, model.rank
    return AttentionWeights(
        norm=ones(make, model.hidden),
        first=matrix(make, model.first_width, model.hidden),
        query_norm=ones(make, model.query_rank),
        query=matrix(make, heads * (model.nope + model.rope), model.query_rank),
        latent_norm=ones(make, rank),
        absorb_keys=make.normal(heads, model.nope, rank, dtype=torch.bfloat16, scale=model.nope**-0.5),
        absorb_values=make.normal(heads, rank, model.value, dtype=torch.bfloat16, scale=rank**-0.5),
        expand=make.normal(rank, heads * (model.nope + model.value), dtype=torch.bfloat16, scale=rank**-0.5),
        out=matrix(make, model.hidden, heads * model.value),
    )


def moe_weights(make: Inputs, model: Model, owned: int) -> MoeWeights:
    """Draw one layer's router, shared expert and owned experts."""
    router = make.normal(model.hidden, model.experts, dtype=torch.bfloat16, scale=model.hidden**-0.5)
    return MoeWeights(
        norm=ones(make, model.hidden),
        router=router,
        bias=make.normal(model.experts, scale=0.1),
        shared=mlp_weights(make, model.hidden, model.moe_width),
        routed=_experts([mlp_weights(make, model.hidden, model.moe_width) for _ in range(owned)]),
    )


def mlp_weights(make: Inputs, hidden: int, width: int) -> MlpWeights:
    """Draw one MLP."""
    return matrix(make, 2 * width, hidden), matrix(make, hidden, width)


def matrix(make: Inputs, out: int, inner: int) -> Fp8Weight:
    """A block-FP8 weight that keeps the size of what it multiplies."""
    return Fp8Weight(*quantise_blocks(make.normal(out, inner, scale=inner**-0.5)))


def ones(make: Inputs, width: int) -> Tensor:
    """Norm weights near one."""
    return (1 + make.normal(width, scale=0.1)).bfloat16()


def _experts(mlps: list[MlpWeights]) -> ExpertWeights:
    gate_up, down = (
        (torch.stack([m.values for m in matrices]), torch.stack([m.scales for m in matrices]))
        for matrices in zip(*mlps, strict=True)
    )
    return ExpertWeights.of_fp8(range(len(mlps)), gate_up, down)

"""Routing, grouping by expert and the products between: what a mixture-of-experts layer adds."""

from typing import Any

import torch
from torch import Tensor

from ....kernels.fp8 import quantise_blocks, quantise_groups
from ....kernels.gate import gate_sigmoid_grouped, gate_softmax_grouped
from ....kernels.linear import linear_fp8
from ....kernels.moe.grouped_gemm import (
    grouped_gemm,
    grouped_gemm_fp8,
    grouped_gemm_fp8_masked,
    grouped_gemm_masked,
)
from ....kernels.moe.routes import Routes, permute, route_contiguous, route_masked, unpermute
from ..case import Case, Inputs, Results
from .elementwise import size


def gate(
    make: Inputs, tokens: int, experts: int, *, top_k: int, groups: int, top_groups: int, sigmoid: bool,
    normalise: bool = True,
) -> Case:  # fmt: skip
    """Routing; ids come in no order, so weights are compared by expert."""
    logits = make.normal(tokens, experts, scale=2.0)

    def results(result: Any, arguments: tuple[Any, ...]) -> Results:
        weights, ids = result
        return [torch.zeros(tokens, experts, device=ids.device).scatter_(1, ids, weights)]

    return Case(
        operation=gate_sigmoid_grouped if sigmoid else gate_softmax_grouped,
        shape=f"{tokens} x {experts}, {top_k} of {top_groups}/{groups} groups",
        format=torch.float32,
        arguments=(logits, make.normal(experts, scale=0.1)) if sigmoid else (logits,),
        keywords={
            "top_k": top_k,
            "num_groups": groups,
            "top_groups": top_groups,
            "normalise": normalise,
            "scale": 2.5,
        },
        results=results,
        bytes=size(logits) + tokens * top_k * 12,
    )


def contiguous_routes(
    make: Inputs, tokens: int, experts: int, top_k: int, *, owned: range, alignment: int
) -> Case:
    """Grouping for prefill, some tokens dead."""
    ids = routed(make, tokens, experts, top_k)
    return Case(
        operation=route_contiguous,
        shape=f"{tokens} x {top_k} of {experts}, owned {len(owned)}",
        format=torch.int64,
        arguments=(ids, owned, alignment),
        results=_of_routes,
        bytes=size(ids) * 3 // 2,
    )


def masked_routes(make: Inputs, tokens: int, experts: int, top_k: int, owned: range) -> Case:
    """Grouping for decode, some tokens dead."""
    ids = routed(make, tokens, experts, top_k)
    return Case(
        operation=route_masked,
        shape=f"{tokens} x {top_k} of {experts}, owned {len(owned)}",
        format=torch.int64,
        arguments=(ids, owned, tokens),
        results=_of_routes,
        bytes=size(ids) * 3 // 2,
    )


def permutation(make: Inputs, tokens: int, experts: int, top_k: int, width: int) -> Case:
    """Rows to experts; only the rows that hold a token are compared."""
    x = make.normal(tokens, width, dtype=torch.bfloat16)
    routes = route_contiguous(routed(make, tokens, experts, top_k), range(experts), 16)
    kept = routes.positions[routes.positions >= 0].long()

    def results(result: Any, arguments: tuple[Any, ...]) -> Results:
        return [result[kept]]

    return Case(
        operation=permute,
        shape=f"{tokens} x {top_k} x {width}",
        format=torch.bfloat16,
        arguments=(x, routes),
        results=results,
        bytes=(1 + top_k) * size(x),
    )


def reduction(make: Inputs, tokens: int, experts: int, top_k: int, hidden: int) -> Case:
    """The experts' outputs, weighted and summed; rows that no pair has hold NaN."""
    routes = route_contiguous(routed(make, tokens, experts, top_k), range(1, experts), 16)
    outputs = torch.full((routes.rows, hidden), float("nan"), dtype=torch.bfloat16, device=make.device)
    kept = routes.positions[routes.positions >= 0].long()
    outputs[kept] = make.normal(len(kept), hidden, dtype=torch.bfloat16)
    return Case(
        operation=unpermute,
        shape=f"{tokens} x {top_k} x {hidden}",
        format=torch.bfloat16,
        arguments=(outputs, routes, make.uniform(tokens, top_k)),
        bytes=(1 + top_k) * tokens * hidden * 2,
    )


def contiguous_gemm(
    make: Inputs, tiles: list[int], alignment: int, depth: int, width: int, *, fp8: bool
) -> Case:
    """Rows of the experts named by `tiles`; tiles of -1 hold NaN and are not compared."""
    experts = max(tiles) + 1
    tile_experts = torch.tensor(tiles, dtype=torch.int32, device=make.device)
    rows = make.normal(len(tiles) * alignment, depth)
    live = tile_experts.repeat_interleave(alignment) >= 0
    rows[~live] = float("nan")
    weights = make.normal(experts, width, depth, scale=depth**-0.5)

    def results(result: Any, arguments: tuple[Any, ...]) -> Results:
        return [result[live]]

    count = int(live.sum())
    return Case(
        operation=grouped_gemm_fp8 if fp8 else grouped_gemm,
        shape=f"{experts} experts, {count} rows, {depth} -> {width}",
        format=torch.bfloat16,
        arguments=(*_operands(rows, weights, fp8=fp8), tile_experts),
        results=results,
        bytes=(weights.numel() + count * depth) * (1 if fp8 else 2) + count * width * 2,
        flops=2 * count * depth * width,
    )


def masked_gemm(make: Inputs, counts: list[int], capacity: int, depth: int, width: int, *, fp8: bool) -> Case:
    """The first rows of each expert; the others hold NaN and are not compared."""
    experts = len(counts)
    rows = make.normal(experts, capacity, depth)
    for expert, count in enumerate(counts):
        rows[expert, count:] = float("nan")
    weights = make.normal(experts, width, depth, scale=depth**-0.5)

    def results(result: Any, arguments: tuple[Any, ...]) -> Results:
        return [torch.cat([result[expert, :count] for expert, count in enumerate(counts)])]

    return Case(
        operation=grouped_gemm_fp8_masked if fp8 else grouped_gemm_masked,
        shape=f"{experts} experts, {sum(counts)} rows, {depth} -> {width}",
        format=torch.bfloat16,
        arguments=(
            *_operands(rows, weights, fp8=fp8),
            torch.tensor(counts, dtype=torch.int32, device=make.device),
        ),
        keywords={"expected": -(-sum(counts) // experts)},
        results=results,
        bytes=(weights.numel() + sum(counts) * depth) * (1 if fp8 else 2) + sum(counts) * width * 2,
        flops=2 * sum(counts) * depth * width,
    )


def linear(make: Inputs, tokens: int, depth: int, width: int) -> Case:
    """A dense product with a block-FP8 weight."""
    x, weight = make.normal(tokens, depth), make.normal(width, depth, scale=depth**-0.5)
    return Case(
        operation=linear_fp8,
        shape=f"{tokens} x {depth} -> {width}",
        format=torch.bfloat16,
        arguments=_operands(x, weight, fp8=True),
        bytes=weight.numel() + x.numel() + 2 * tokens * width,
        flops=2 * tokens * depth * width,
    )


def routed(make: Inputs, tokens: int, experts: int, top_k: int) -> Tensor:
    """Distinct experts of each token; the last tokens of a batch are dead."""
    ids = make.choices(tokens, experts, top_k)
    ids[tokens - tokens // 4 :] = -1
    return ids


def _operands(rows: Tensor, weights: Tensor, *, fp8: bool) -> tuple[Tensor, ...]:
    if not fp8:
        return rows.bfloat16(), weights.bfloat16()
    values, scales = quantise_groups(rows.flatten(0, -2))
    return (
        values.view(rows.shape),
        scales.view(*rows.shape[:-1], -1),
        *quantise_blocks(weights),
    )


def _of_routes(result: Routes, arguments: tuple[Any, ...]) -> Results:
    tiles = [] if result.tile_experts is None else [result.tile_experts]
    return [result.positions, result.counts, *tiles]

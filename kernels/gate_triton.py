"""Routing on a GPU: a program routes one token, its scores in registers from logits to ids.

Experts lie in a tile of groups, padded with minus infinity. The best are taken one after the other; of equal
scores the lowest id wins.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from .gate import Routing
from .jit import Number, Pointer, Tile, jit, power_of_two

NONE = tl.constexpr(1 << 30)


def gate_sigmoid_grouped(
    logits: Tensor,
    bias: Tensor,
    *,
    top_k: int,
    num_groups: int,
    top_groups: int,
    normalise: bool,
    scale: float,
) -> Routing:
    """Launch; shapes as in the reference."""
    assert bias.shape == logits.shape[1:], f"bias {list(bias.shape)} for logits {list(logits.shape)}"
    return _launch(
        _sigmoid_kernel, [logits, bias.contiguous()], top_k, num_groups, top_groups, normalise, scale
    )


def gate_softmax_grouped(
    logits: Tensor, *, top_k: int, num_groups: int, top_groups: int, normalise: bool, scale: float
) -> Routing:
    """Launch; shapes as in the reference."""
    return _launch(_softmax_kernel, [logits], top_k, num_groups, top_groups, normalise, scale)


def _launch(
    kernel: Any, inputs: list[Tensor], top_k: int, groups: int, top_groups: int, normalise: bool, scale: float
) -> Routing:
    logits = inputs[0]
    tokens, experts = logits.shape
    assert experts % groups == 0, f"{experts} experts in {groups} groups"
    assert top_k <= top_groups * (experts // groups), "not enough eligible experts"
    assert logits.stride(1) == 1, "rows must be dense"
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=logits.device)
    ids = torch.empty(tokens, top_k, dtype=torch.int64, device=logits.device)
    if tokens:
        size = experts // groups
        kernel[(tokens,)](
            *inputs, weights, ids, logits.stride(0), float(scale), groups, size, top_groups, top_k, normalise,
            power_of_two(groups), power_of_two(size), power_of_two(top_k), num_warps=1,
        )  # fmt: skip
    return weights, ids


@jit
def _best_groups(
    choice: Tile, group_scores: Tile, top_groups: tl.constexpr, block_groups: tl.constexpr
) -> Tile:
    """Scores, minus infinity outside the best groups."""
    group = tl.arange(0, block_groups)
    kept = group < 0
    for _ in tl.static_range(top_groups):
        best = tl.max(group_scores, 0)
        first = tl.min(tl.where(group_scores == best, group, NONE), 0)
        kept = kept | (group == first)
        group_scores = tl.where(group == first, float("-inf"), group_scores)
    return tl.where(kept[:, None], choice, float("-inf"))


@jit
def _best_experts(
    choice: Tile, scores: Tile, expert: Tile, top_k: tl.constexpr, block_k: tl.constexpr
) -> tuple[Tile, Tile]:
    """Scores and ids of the `top_k` experts with the best `choice`: `[block_k]` each, zeros at the end."""
    slot = tl.arange(0, block_k)
    weights, ids = tl.zeros([block_k], tl.float32), tl.zeros([block_k], tl.int32)
    for taken in tl.static_range(top_k):
        best = tl.max(tl.max(choice, 1), 0)
        winner = tl.min(tl.min(tl.where(choice == best, expert, NONE), 1), 0)
        weight = tl.sum(tl.sum(tl.where(expert == winner, scores, 0.0), 1), 0)
        weights, ids = tl.where(slot == taken, weight, weights), tl.where(slot == taken, winner, ids)
        choice = tl.where(expert == winner, float("-inf"), choice)
    return weights, ids


@jit
def _store(
    weights: Pointer, ids: Pointer, values: Tile, chosen: Tile, top_k: tl.constexpr, block_k: tl.constexpr
) -> None:
    slot = tl.arange(0, block_k)
    place = tl.program_id(0).to(tl.int64) * top_k + slot
    tl.store(weights + place, values, mask=slot < top_k)
    tl.store(ids + place, chosen.to(tl.int64), mask=slot < top_k)


@jit
def _sigmoid_kernel(
    logits: Pointer,  # [tokens, groups * size] float32
    bias: Pointer,  # [groups * size] float32
    weights: Pointer,  # [tokens, top_k] float32
    ids: Pointer,  # [tokens, top_k] int64
    stride: Number,
    scale: Number,
    groups: tl.constexpr,
    size: tl.constexpr,
    top_groups: tl.constexpr,
    top_k: tl.constexpr,
    normalise: tl.constexpr,
    block_groups: tl.constexpr,
    block_size: tl.constexpr,
    block_k: tl.constexpr,
) -> None:
    group, member = tl.arange(0, block_groups), tl.arange(0, block_size)
    expert = group[:, None] * size + member[None, :]
    mask = (group < groups)[:, None] & (member < size)[None, :]
    expert = tl.where(mask, expert, NONE - 1)
    row = logits + tl.program_id(0).to(tl.int64) * stride
    scores = 1.0 / (1.0 + tl.exp(-tl.load(row + expert, mask=mask, other=0.0)))
    choice = tl.where(mask, scores + tl.load(bias + expert, mask=mask, other=0.0), float("-inf"))
    if top_groups < groups:
        best = tl.max(choice, 1)
        first = tl.min(tl.where(choice == best[:, None], expert, NONE), 1)
        second = tl.max(tl.where(expert == first[:, None], float("-inf"), choice), 1)
        choice = _best_groups(choice, best + second, top_groups, block_groups)
    values, chosen = _best_experts(choice, scores, expert, top_k, block_k)
    if normalise:
        values = values / (tl.sum(values, 0) + 1e-20)
    _store(weights, ids, values * scale, chosen, top_k, block_k)


@jit
def _softmax_kernel(
    logits: Pointer,  # [tokens, groups * size] float32
    weights: Pointer,  # [tokens, top_k] float32
    ids: Pointer,  # [tokens, top_k] int64
    stride: Number,
    scale: Number,
    groups: tl.constexpr,
    size: tl.constexpr,
    top_groups: tl.constexpr,
    top_k: tl.constexpr,
    normalise: tl.constexpr,
    block_groups: tl.constexpr,
    block_size: tl.constexpr,
    block_k: tl.constexpr,
) -> None:
    group, member = tl.arange(0, block_groups), tl.arange(0, block_size)
    expert = group[:, None] * size + member[None, :]
    mask = (group < groups)[:, None] & (member < size)[None, :]
    expert = tl.where(mask, expert, NONE - 1)
    row = logits + tl.program_id(0).to(tl.int64) * stride
    values = tl.load(row + expert, mask=mask, other=float("-inf"))
    powers = tl.exp(values - tl.max(tl.max(values, 1), 0))
    scores = powers / tl.sum(tl.sum(powers, 1), 0)
    choice = tl.where(mask, scores, float("-inf"))
    if top_groups < groups:
        choice = _best_groups(choice, tl.max(choice, 1), top_groups, block_groups)
    chosen_scores, chosen = _best_experts(choice, scores, expert, top_k, block_k)
    factor = 1.0 / (tl.sum(chosen_scores, 0) + 1e-20) if normalise else scale
    _store(weights, ids, chosen_scores * factor, chosen, top_k, block_k)

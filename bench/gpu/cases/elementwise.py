"""Norms, rotations, activations, quantisation and the rows of the KV pool: memory is their limit."""

from typing import Any

import torch
from torch import Tensor

from ....kernels.fp8 import dequantise_groups, quantise_groups
from ....kernels.kv_rows import read_rows, write_rows
from ....kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_
from ....kernels.rope import rope_halves_, rope_interleaved_
from ....kernels.silu_mul import (
    silu_mul,
    silu_mul_masked,
    silu_mul_quantise,
    silu_mul_quantise_masked,
)
from ..case import Case, Inputs, Results, changed

EPS = 1e-6
FP8 = torch.float8_e4m3fn


def norm(make: Inputs, tokens: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """Norm of whole rows."""
    x, weight = make.normal(tokens, width, dtype=dtype), make.normal(width, dtype=dtype)
    return Case(
        operation=rms_norm,
        shape=f"{tokens} x {width}",
        format=dtype,
        arguments=(x, weight, EPS),
        bytes=2 * size(x) + size(weight),
    )


def head_norm(make: Inputs, tokens: int, heads: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """Norm in place of the first heads of wider rows, a weight a head."""
    x = make.normal(tokens, heads + 1, width, dtype=dtype)[:, :heads]
    weight = make.normal(heads, width, dtype=dtype)
    return Case(
        operation=rms_norm_,
        shape=f"{tokens} x {heads} x {width} in place",
        format=dtype,
        arguments=(x, weight, EPS),
        results=changed,
        bytes=2 * size(x) + size(weight),
    )


def added_norm(make: Inputs, tokens: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """Norm of a sum that replaces the residual."""
    x, residual = make.normal(tokens, width, dtype=dtype), make.normal(tokens, width, dtype=dtype)

    def results(result: Any, arguments: tuple[Any, ...]) -> Results:
        return [result, arguments[1]]

    return Case(
        operation=add_rms_norm,
        shape=f"{tokens} x {width}",
        format=dtype,
        arguments=(x, residual, make.normal(width, dtype=dtype), EPS),
        results=results,
        bytes=4 * size(x),
    )


def interleaved_rope(
    make: Inputs, tokens: int, heads: int, dim: int, dtype: torch.dtype = torch.bfloat16
) -> Case:
    """The last `dim` values of every head, which has others before them."""
    x = make.normal(tokens, heads, dim + 8, dtype=dtype)[..., 8:]
    turns = torch.polar(torch.ones(1, device=make.device), make.normal(tokens, 1, dim // 2, scale=3.0))
    return Case(
        operation=rope_interleaved_,
        shape=f"{tokens} x {heads} x {dim}",
        format=dtype,
        arguments=(x, turns),
        results=changed,
        bytes=2 * size(x) + size(turns),
    )


def halves_rope(make: Inputs, tokens: int, heads: int, dim: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """The first heads of wider rows."""
    x = make.normal(tokens, heads + 2, dim, dtype=dtype)[:, :heads]
    turns = torch.polar(torch.ones(1, device=make.device), make.normal(tokens, 1, dim // 2, scale=3.0))
    return Case(
        operation=rope_halves_,
        shape=f"{tokens} x {heads} x {dim}",
        format=dtype,
        arguments=(x, turns),
        results=changed,
        bytes=2 * size(x) + size(turns),
    )


def activation(make: Inputs, tokens: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """The plain activation."""
    gate_up = make.normal(tokens, 2 * width, dtype=dtype)
    return Case(
        operation=silu_mul,
        shape=f"{tokens} x {width}",
        format=dtype,
        arguments=(gate_up,),
        bytes=size(gate_up) * 3 // 2,
    )


def quantised_activation(make: Inputs, tokens: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """The activation with its result in FP8."""
    gate_up = make.normal(tokens, 2 * width, dtype=dtype)
    return Case(
        operation=silu_mul_quantise,
        shape=f"{tokens} x {width}",
        format=FP8,
        arguments=(gate_up,),
        results=dequantised,
        bytes=size(gate_up) + tokens * width,
    )


def masked_activation(make: Inputs, counts: list[int], capacity: int, width: int, *, quantised: bool) -> Case:
    """The activation of each expert's own number of rows."""
    gate_up = make.normal(len(counts), capacity, 2 * width, dtype=torch.bfloat16)
    rows = torch.tensor(counts, dtype=torch.int32, device=make.device)

    def results(result: Any, arguments: tuple[Any, ...]) -> Results:
        whole = dequantised(result, arguments)[0] if quantised else result
        return [whole[expert, :count] for expert, count in enumerate(counts)]

    return Case(
        operation=silu_mul_quantise_masked if quantised else silu_mul_masked,
        shape=f"{len(counts)} experts, {sum(counts)} rows x {width}",
        format=FP8 if quantised else torch.bfloat16,
        arguments=(gate_up, rows),
        results=results,
        bytes=sum(counts) * width * (5 if quantised else 6),
    )


def quantisation(make: Inputs, tokens: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """Groups of 128 columns to FP8; some of them hold nothing but zeros."""
    x = make.normal(tokens, width, dtype=dtype)
    x[:: tokens // 2 + 1, :128] = 0.0
    return Case(
        operation=quantise_groups,
        shape=f"{tokens} x {width}",
        format=FP8,
        arguments=(x,),
        results=dequantised,
        bytes=size(x) + x.numel(),
    )


def write(make: Inputs, tokens: int, width: int, pool_rows: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """Tokens, or whole blocks, scattered into the pool, from rows that are part of wider ones."""
    pool = make.normal(pool_rows, width, dtype=dtype)
    rows = make.order(pool_rows)[:tokens]
    values = make.normal(tokens, width + 8, dtype=dtype)[:, :width]
    return Case(
        operation=write_rows,
        shape=f"{tokens} x {width}",
        format=dtype,
        arguments=(pool, rows, values),
        results=changed,
        bytes=2 * size(values),
    )


def read(make: Inputs, tokens: int, width: int, pool_rows: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """Tokens, or whole blocks, gathered from the pool."""
    pool = make.normal(pool_rows, width, dtype=dtype)
    return Case(
        operation=read_rows,
        shape=f"{tokens} x {width}",
        format=dtype,
        arguments=(pool, make.order(pool_rows)[:tokens], width),
        bytes=2 * tokens * width * pool.element_size(),
    )


def dequantised(result: Any, arguments: tuple[Any, ...]) -> Results:
    """What a quantisation is judged by: the values it stands for, and the factors."""
    values, scales = result
    return [dequantise_groups(values, scales), scales]


def size(tensor: Tensor) -> int:
    """Bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()

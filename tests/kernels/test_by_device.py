"""Operations and their Triton forms find each other by name, and both take the same arguments."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from baton.kernels import (
    attention,
    fp8,
    gate,
    gqa_decode,
    kv_rows,
    linear,
    mla_decode,
    rms_norm,
    rope,
    sampling,
    silu_mul,
)
from baton.kernels.by_device import launcher, reference
from baton.kernels.moe import grouped_gemm, routes

OPERATIONS: list[Callable[..., Any]] = [
    attention.attend,
    attention.merge_attention,
    fp8.quantise_groups,
    gate.gate_sigmoid_grouped,
    gate.gate_softmax_grouped,
    gqa_decode.gqa_paged_decode,
    grouped_gemm.grouped_gemm,
    grouped_gemm.grouped_gemm_fp8,
    grouped_gemm.grouped_gemm_fp8_masked,
    grouped_gemm.grouped_gemm_masked,
    kv_rows.read_rows,
    kv_rows.write_rows,
    linear.linear_fp8,
    mla_decode.mla_paged_decode,
    rms_norm.add_rms_norm,
    rms_norm.rms_norm,
    rms_norm.rms_norm_,
    rope.rope_halves_,
    rope.rope_interleaved_,
    routes.permute,
    routes.route_contiguous,
    routes.route_masked,
    routes.unpermute,
    sampling.best_tokens,
    sampling.draw,
    sampling.token_weights,
    silu_mul.silu_mul,
    silu_mul.silu_mul_masked,
    silu_mul.silu_mul_quantise,
    silu_mul.silu_mul_quantise_masked,
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_both_forms_take_the_same_arguments(operation: Callable[..., Any]) -> None:
    assert inspect.signature(launcher(operation)) == inspect.signature(reference(operation))

"""The kernels of a DeepSeek-R1 step, and of Qwen3-MoE where they differ, at decode and prefill shapes."""

from collections.abc import Callable

import torch

from .case import Case, Inputs
from .cases import attention, elementwise, moe, sampling
from .sizes import Sizes

HIDDEN, MOE_WIDTH, RANK, ROPE = 7168, 2048, 512, 64
BLOCK_VALUES = 61 * 64 * 576
"""Values of one block of 64 tokens over all layers"""

Builder = Callable[[Inputs, Sizes], Case]

ELEMENTWISE: list[Builder] = [
    lambda make, s: elementwise.added_norm(make, s.decode_rows, HIDDEN),
    lambda make, s: elementwise.added_norm(make, s.prefill_tokens, HIDDEN),
    lambda make, s: elementwise.norm(make, s.decode_rows, 1536),
    lambda make, s: elementwise.head_norm(make, s.prefill_tokens, 36, 128),
    lambda make, s: elementwise.interleaved_rope(make, s.decode_rows, s.heads, ROPE),
    lambda make, s: elementwise.halves_rope(make, s.prefill_tokens, 36, 128),
    lambda make, s: elementwise.quantisation(make, s.decode_rows, HIDDEN),
    lambda make, s: elementwise.quantisation(make, s.prefill_tokens, HIDDEN),
    lambda make, s: elementwise.activation(make, s.prefill_tokens, MOE_WIDTH),
    lambda make, s: elementwise.quantised_activation(make, s.prefill_tokens, MOE_WIDTH),
    lambda make, s: elementwise.masked_activation(
        make, [s.expert_rows] * 4, 2 * s.expert_rows, MOE_WIDTH, quantised=True
    ),
    lambda make, s: elementwise.masked_activation(
        make, [s.expert_rows] * 4, 2 * s.expert_rows, MOE_WIDTH, quantised=False
    ),
    lambda make, s: elementwise.write(make, s.decode_rows, RANK + ROPE, 64 * s.pool_blocks),
    lambda make, s: elementwise.read(make, s.pool_blocks // 2, BLOCK_VALUES, s.pool_blocks),
    lambda make, s: elementwise.write(make, s.pool_blocks // 2, BLOCK_VALUES, s.pool_blocks),
]

ATTENTION: list[Builder] = [
    lambda make, s: attention.mla_decode(
        make, [s.context] * s.decode_rows, -(-s.context // 64), heads=s.heads, rank=RANK, rope=ROPE
    ),
    lambda make, s: attention.mla_decode(  # split
        make, [s.split_context] * 2, 8192 // 64, heads=s.heads, rank=RANK, rope=ROPE
    ),
    lambda make, s: attention.mla_decode(
        make, [s.context] * s.decode_rows, -(-s.context // 64), heads=s.heads, rank=RANK, rope=ROPE, fp8=True
    ),
    lambda make, s: attention.gqa_decode(
        make, [s.context] * s.decode_rows, -(-s.context // 64), heads=32, kv_heads=4, dim=128, fp8=True
    ),
    lambda make, s: attention.gqa_decode(
        make, [s.context] * s.decode_rows, -(-s.context // 64), heads=32, kv_heads=4, dim=128
    ),
    lambda make, s: attention.gqa_decode(  # split
        make, [s.split_context] * 2, 8192 // 64, heads=32, kv_heads=4, dim=128
    ),
    lambda make, s: attention.dense(
        make, s.dense_heads, 1, s.context, s.context, dim=192, v_dim=128, causal=True
    ),
    lambda make, s: attention.dense(
        make, s.dense_heads, 1, s.context, s.context, dim=192, v_dim=128, causal=False
    ),
    lambda make, s: attention.dense(
        make, s.dense_heads // 2, 2, s.context, s.context, dim=128, v_dim=128, causal=True
    ),
    lambda make, s: attention.merge(make, s.dense_heads, s.context, 128),
]

MOE: list[Builder] = [
    lambda make, s: moe.gate(make, s.decode_rows, 256, top_k=8, groups=8, top_groups=4, sigmoid=True),
    lambda make, s: moe.gate(make, s.decode_rows, 384, top_k=8, groups=1, top_groups=1, sigmoid=True),
    lambda make, s: moe.gate(make, s.decode_rows, 128, top_k=8, groups=1, top_groups=1, sigmoid=False),
    lambda make, s: moe.masked_routes(make, s.decode_rows, 256, 8, range(s.owned)),
    lambda make, s: moe.contiguous_routes(
        make, s.prefill_tokens, 256, 8, owned=range(s.owned), alignment=128
    ),
    lambda make, s: moe.permutation(make, s.prefill_tokens, 256, 8, HIDDEN),
    lambda make, s: moe.reduction(make, s.prefill_tokens, 256, 8, HIDDEN),
    lambda make, s: moe.masked_gemm(make, [s.expert_rows] * 4, 2 * s.expert_rows, s.depth, s.width, fp8=True),
    lambda make, s: moe.masked_gemm(
        make, [s.expert_rows] * 4, 2 * s.expert_rows, s.depth, s.width, fp8=False
    ),
    lambda make, s: moe.masked_gemm(  # few rows: the smaller tile
        make, [s.expert_rows // 4] * 4, s.expert_rows, s.depth, s.width, fp8=True
    ),
    lambda make, s: moe.contiguous_gemm(make, _tiles(s), 128, s.depth, s.width, fp8=True),
    lambda make, s: moe.contiguous_gemm(make, _tiles(s), 128, s.depth, s.width, fp8=False),
]

DENSE: list[Builder] = [
    lambda make, s: moe.linear(make, s.decode_rows, s.depth, 2112),  # q_a and kv_a: depth is split
    lambda make, s: moe.linear(make, s.decode_rows, 1536, 6 * s.width),  # q_b
    lambda make, s: moe.linear(make, s.decode_rows, s.depth * 16 // 7 // 128 * 128, HIDDEN),  # o
    lambda make, s: moe.linear(make, s.prefill_tokens, s.depth, s.width),
    lambda make, s: sampling.greedy(make, s.decode_rows, s.vocab),
    lambda make, s: sampling.weights(make, s.decode_rows, s.vocab),
    lambda make, s: sampling.drawn(make, s.decode_rows, s.vocab),
]

KERNELS: list[Builder] = [*ELEMENTWISE, *ATTENTION, *MOE, *DENSE]


def inputs(device: torch.device) -> Inputs:
    """The generator of the table's inputs."""
    return Inputs(device, seed=0)


def _tiles(sizes: Sizes) -> list[int]:
    """Experts of contiguous tiles: eight, an equal number each."""
    each = max(1, sizes.prefill_tokens // 8 // 128)
    return [tile // each for tile in range(8 * each)]

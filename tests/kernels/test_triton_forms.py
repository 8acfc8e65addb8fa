"""Every Triton form equals its reference, on shapes that are odd on purpose.

Without a GPU, Triton's CPU interpreter runs the kernels, and the tolerance allows for its truncation.
"""

import pytest
import torch

from baton.bench.gpu.case import Case, Inputs
from baton.bench.gpu.cases import attention, elementwise, moe, sampling
from baton.bench.gpu.error import INTERPRETED_TOLERANCE, TOLERANCE
from baton.kernels.by_device import launcher
from baton.kernels.sampling import best_tokens

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
TOLERANCES = TOLERANCE if GPU else INTERPRETED_TOLERANCE
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def assert_equal(case: Case) -> None:
    error = case.error()

    assert error <= TOLERANCES[case.format], f"{case.name} {case.shape}: error {error:.2e}"


def make() -> Inputs:
    return Inputs(DEVICE, seed=1)


@pytest.mark.parametrize("dtype", [F32, F16, BF16])
@pytest.mark.parametrize(("tokens", "width"), [(1, 7), (5, 100), (3, 64)])
def test_norms(tokens: int, width: int, dtype: torch.dtype) -> None:
    assert_equal(elementwise.norm(make(), tokens, width, dtype))
    assert_equal(elementwise.added_norm(make(), tokens, width, dtype))
    assert_equal(elementwise.head_norm(make(), tokens, 3, width, dtype))


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(("tokens", "heads", "dim"), [(1, 1, 2), (5, 3, 12), (9, 2, 64)])
def test_rotations(tokens: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    assert_equal(elementwise.interleaved_rope(make(), tokens, heads, dim, dtype))
    assert_equal(elementwise.halves_rope(make(), tokens, heads, dim, dtype))


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(("tokens", "width"), [(1, 5), (19, 130), (3, 384)])
def test_activations(tokens: int, width: int, dtype: torch.dtype) -> None:
    assert_equal(elementwise.activation(make(), tokens, width, dtype))
    assert_equal(elementwise.quantised_activation(make(), tokens, width, dtype))


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize(("counts", "capacity"), [([3, 0, 20], 20), ([1], 7)])
def test_activations_of_each_expert_s_own_rows(counts: list[int], capacity: int, quantised: bool) -> None:
    assert_equal(elementwise.masked_activation(make(), counts, capacity, 130, quantised=quantised))


@pytest.mark.parametrize(("tokens", "width"), [(1, 128), (19, 300), (2, 64)])
def test_quantisation(tokens: int, width: int) -> None:
    assert_equal(elementwise.quantisation(make(), tokens, width))


@pytest.mark.parametrize(("tokens", "width"), [(1, 3), (7, 72), (3, 5000)])
def test_rows_of_the_pool(tokens: int, width: int) -> None:
    assert_equal(elementwise.write(make(), tokens, width, 11))
    assert_equal(elementwise.read(make(), tokens, width, 11))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "dim", "v_dim", "dtype"),
    [(1, 8, 8, F32), (37, 24, 20, F32), (150, 48, 32, BF16), (70, 192, 128, BF16)],
)
def test_attention_over_dense_keys(
    queries: int, dim: int, v_dim: int, dtype: torch.dtype, causal: bool
) -> None:
    keys = queries if causal else 2 * queries + 5
    group = 1 if queries > 100 else 2
    assert_equal(
        attention.dense(make(), 2, group, queries, keys, dim=dim, v_dim=v_dim, causal=causal, dtype=dtype)
    )


@pytest.mark.parametrize(("heads", "queries", "v_dim"), [(1, 1, 3), (3, 7, 20)])
def test_merging_of_two_parts(heads: int, queries: int, v_dim: int) -> None:
    assert_equal(attention.merge(make(), heads, queries, v_dim, F32))
    assert_equal(attention.merge(make(), heads, queries, v_dim, BF16))


@pytest.mark.parametrize(
    ("lengths", "max_blocks", "heads", "rank", "rope", "block_tokens", "dtype"),
    [
        ([5, 0, 12], 5, 3, 6, 2, 4, F32),
        ([130, 64, 1], 3, 20, 48, 16, 64, BF16),
        ([700], 200, 5, 32, 8, 4, F32),  # split
        ([600, 3], 40, 5, 32, 8, 16, BF16),  # split, the second part of a sequence empty
    ],
)
def test_mla_decode(  # noqa: PLR0917
    lengths: list[int],
    max_blocks: int,
    heads: int,
    rank: int,
    rope: int,
    block_tokens: int,
    dtype: torch.dtype,
) -> None:
    assert_equal(
        attention.mla_decode(
            make(), lengths, max_blocks, heads=heads, rank=rank, rope=rope, block_tokens=block_tokens,
            layers=2, dtype=dtype,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lengths", "max_blocks", "heads", "kv_heads", "dim", "block_tokens", "dtype"),
    [
        ([5, 0, 12], 4, 6, 2, 5, 4, F32),
        ([130, 64], 3, 8, 1, 64, 64, BF16),
        ([700, 2], 100, 4, 2, 16, 8, F32),  # split
    ],
)
def test_gqa_decode(  # noqa: PLR0917
    lengths: list[int],
    max_blocks: int,
    heads: int,
    kv_heads: int,
    dim: int,
    block_tokens: int,
    dtype: torch.dtype,
) -> None:
    assert_equal(
        attention.gqa_decode(
            make(), lengths, max_blocks, heads=heads, kv_heads=kv_heads, dim=dim, block_tokens=block_tokens,
            layers=2, dtype=dtype,
        )
    )  # fmt: skip


def test_decode_over_an_fp8_pool() -> None:
    assert_equal(
        attention.mla_decode(
            make(), [5, 0, 12], 4, heads=3, rank=32, rope=16, block_tokens=4, layers=2, fp8=True
        )
    )
    assert_equal(
        attention.gqa_decode(
            make(), [5, 12], 4, heads=6, kv_heads=2, dim=16, block_tokens=4, layers=2, fp8=True
        )
    )


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(
    ("experts", "groups", "top_groups"), [(12, 1, 1), (12, 4, 2), (24, 3, 3), (32, 8, 4)]
)
def test_gates(experts: int, groups: int, top_groups: int, normalise: bool, sigmoid: bool) -> None:
    assert_equal(
        moe.gate(
            make(),
            5,
            experts,
            top_k=3,
            groups=groups,
            top_groups=top_groups,
            sigmoid=sigmoid,
            normalise=normalise,
        )
    )


@pytest.mark.parametrize(
    ("tokens", "owned"), [(1, range(6)), (9, range(2, 5)), (700, range(6)), (3, range(7, 9))]
)
def test_routes(tokens: int, owned: range) -> None:
    assert_equal(moe.masked_routes(make(), tokens, 10, 2, owned))
    assert_equal(moe.contiguous_routes(make(), tokens, 10, 2, owned=owned, alignment=16))


@pytest.mark.parametrize(("tokens", "width"), [(1, 3), (9, 100), (5, 2100)])
def test_rows_to_experts_and_back(tokens: int, width: int) -> None:
    assert_equal(moe.permutation(make(), tokens, 5, 2, width))
    assert_equal(moe.reduction(make(), tokens, 5, 3, width))


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(
    ("tiles", "alignment", "depth", "width"),
    [([0], 16, 7, 5), ([2, 0, 0, -1], 32, 200, 150), ([1, 0], 256, 128, 128)],
)
def test_grouped_products(tiles: list[int], alignment: int, depth: int, width: int, fp8: bool) -> None:
    assert_equal(moe.contiguous_gemm(make(), tiles, alignment, depth, width, fp8=fp8))


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(
    ("counts", "capacity", "depth", "width"),
    [([1], 1, 7, 5), ([3, 0, 70], 80, 200, 150), ([2, 130, 0, 1, 0], 140, 256, 300)],
)
def test_grouped_products_of_each_expert_s_own_rows(
    counts: list[int], capacity: int, depth: int, width: int, fp8: bool
) -> None:
    assert_equal(moe.masked_gemm(make(), counts, capacity, depth, width, fp8=fp8))


@pytest.mark.parametrize(("tokens", "depth", "width"), [(1, 7, 5), (70, 1300, 130), (3, 1024, 256)])
def test_dense_products_with_fp8_weights(tokens: int, depth: int, width: int) -> None:
    assert_equal(moe.linear(make(), tokens, depth, width))


@pytest.mark.parametrize(("rows", "vocab"), [(1, 5), (3, 1000), (2, 9000)])
def test_choosing_tokens(rows: int, vocab: int) -> None:
    assert_equal(sampling.greedy(make(), rows, vocab))
    assert_equal(sampling.weights(make(), rows, vocab))
    assert_equal(sampling.drawn(make(), rows, vocab))


@pytest.mark.parametrize("vocab", [7, 5000])
def test_a_nan_among_logits_is_what_is_best(vocab: int) -> None:
    logits = torch.zeros(4, vocab, device=DEVICE)
    logits[1, vocab - 1] = float("nan")
    logits[2] = float("-inf")
    logits[3, 2] = float("inf")

    best, tokens = launcher(best_tokens)(logits)

    assert best.isfinite().tolist() == [True, False, False, False]
    assert best[1].isnan()
    assert (tokens[0].item(), tokens[3].item()) == (0, 2)

"""Every C++ form equals its reference, on shapes that are odd on purpose."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from baton.bench.gpu.case import Case, Inputs
from baton.bench.gpu.cases import attention, elementwise, moe
from baton.bench.gpu.error import TOLERANCE, relative_error
from baton.kernels.attention import attend
from baton.kernels.by_device import NATIVE, native, reference
from baton.kernels.decode_stack import DenseWeights, MoeWeights, Stack, StackLayer, decode_stack
from baton.kernels.gate import Gate, gate_sigmoid_grouped, gate_softmax_grouped
from baton.kernels.gqa_layer import GqaLayer, gqa_decode_layer
from baton.kernels.kv_rows import gqa_token_rows, mla_token_rows
from baton.kernels.linear import gated_mlp
from baton.kernels.mla_layer import MlaLayer, mla_decode_layer
from baton.kernels.moe.experts import ExpertWeights
from baton.kernels.moe.routed import routed_experts
from baton.kernels.native.library import library
from baton.kernels.paged_step import PagedRows, PagedStep

pytestmark = pytest.mark.skipif(library() is None, reason="no C++ compiler")
F32, BF16 = torch.float32, torch.bfloat16
HIDDEN, LAYERS = 40, 2
RANK, ROPE = 20, 8
"""Of latent attention"""
KV_HEADS, HEAD_DIM = 2, 20
"""Of grouped attention"""


def assert_equal(case: Case) -> None:
    operation = reference(case.operation)
    assert operation.__name__ in NATIVE

    error = case.error_of(native(operation))

    assert error <= TOLERANCE[case.format], f"{case.name} {case.shape}: error {error:.2e}"


def make() -> Inputs:
    return Inputs(torch.device("cpu"), seed=1)


@pytest.mark.parametrize("dtype", [F32, BF16])
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


@pytest.mark.parametrize(("tokens", "width"), [(1, 5), (19, 130), (3, 384)])
def test_activations(tokens: int, width: int) -> None:
    assert_equal(elementwise.activation(make(), tokens, width, F32))


@pytest.mark.parametrize(("tokens", "width"), [(1, 3), (7, 72), (3, 5000)])
def test_rows_of_the_pool(tokens: int, width: int) -> None:
    assert_equal(elementwise.write(make(), tokens, width, 11, F32))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("queries", "dim", "v_dim"), [(1, 8, 8), (37, 24, 20), (150, 48, 32), (70, 192, 128), (513, 16, 16)]
)
def test_attention_over_dense_keys(queries: int, dim: int, v_dim: int, causal: bool) -> None:
    keys = queries if causal else 2 * queries + 5
    assert_equal(attention.dense(make(), 2, 2, queries, keys, dim=dim, v_dim=v_dim, causal=causal, dtype=F32))


@pytest.mark.parametrize(
    ("lengths", "max_blocks", "heads", "rank", "rope", "block_tokens"),
    [([5, 0, 12], 5, 3, 6, 2, 4), ([130, 64, 1], 3, 20, 48, 16, 64), ([700], 200, 5, 64, 8, 4)],
)
def test_mla_decode(  # noqa: PLR0917
    lengths: list[int], max_blocks: int, heads: int, rank: int, rope: int, block_tokens: int
) -> None:
    assert_equal(
        attention.mla_decode(
            make(), lengths, max_blocks, heads=heads, rank=rank, rope=rope, block_tokens=block_tokens,
            layers=2, dtype=F32,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lengths", "max_blocks", "heads", "kv_heads", "dim", "block_tokens"),
    [([5, 0, 12], 4, 6, 2, 5, 4), ([130, 64], 3, 8, 1, 64, 64), ([700, 2], 100, 4, 2, 16, 8)],
)
def test_gqa_decode(  # noqa: PLR0917
    lengths: list[int], max_blocks: int, heads: int, kv_heads: int, dim: int, block_tokens: int
) -> None:
    assert_equal(
        attention.gqa_decode(
            make(), lengths, max_blocks, heads=heads, kv_heads=kv_heads, dim=dim, block_tokens=block_tokens,
            layers=2, dtype=F32,
        )
    )  # fmt: skip


@pytest.mark.parametrize("slots", [[], [4, 7, 19, 12, 0]])
def test_rows_of_tokens(slots: list[int]) -> None:
    places = torch.tensor(slots, dtype=torch.int64)

    for operation, arguments in ((mla_token_rows, (3, 4)), (gqa_token_rows, (3, 2, 4))):
        assert torch.equal(native_of(operation)(places, *arguments), reference(operation)(places, *arguments))


@pytest.mark.parametrize("query_rank", [0, 24])
@pytest.mark.parametrize("batch", [1, 3, 9])
def test_a_layer_of_latent_attention(batch: int, query_rank: int) -> None:
    pool = make().normal(1 + 2 * batch, LAYERS, 8, RANK + ROPE)
    x, rows = make().normal(batch, HIDDEN), paged_step(batch, pool, ROPE, 1).rows_of(1)

    assert_layers_agree(mla_decode_layer, x, pool, latent_attention(query_rank), rows)


@pytest.mark.parametrize("batch", [1, 3, 9])
def test_a_layer_of_grouped_attention(batch: int) -> None:
    pool = make().normal(1 + 2 * batch, LAYERS, 2, KV_HEADS, 8, HEAD_DIM)
    x, rows = make().normal(batch, HIDDEN), paged_step(batch, pool, HEAD_DIM, 2 * KV_HEADS).rows_of(1)

    assert_layers_agree(gqa_decode_layer, x, pool, grouped_attention(), rows)


@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("is_latent", [False, True])
def test_all_layers_in_one_call(is_latent: bool, batch: int) -> None:
    if is_latent:
        pool, dim, planes = make().normal(1 + 2 * batch, LAYERS, 8, RANK + ROPE), ROPE, 1
    else:
        pool, dim = make().normal(1 + 2 * batch, LAYERS, 2, KV_HEADS, 8, HEAD_DIM), HEAD_DIM
        planes = 2 * KV_HEADS
    step, (native_pool, torch_pool) = paged_step(batch, pool, dim, planes), (pool.clone(), pool.clone())
    x, native_stream, torch_stream = (make().normal(batch, HIDDEN) for _ in range(3))
    kept, layers = x.clone(), stack(latent_attention(24) if is_latent else grouped_attention())

    actual = native_of(decode_stack)(x, native_stream, native_pool, layers, step)

    expected = reference(decode_stack)(x, torch_stream, torch_pool, layers, step)
    assert torch.equal(x, kept)
    assert relative_error(actual, expected) <= TOLERANCE[F32]
    assert relative_error(native_stream, torch_stream) <= TOLERANCE[F32]
    assert relative_error(native_pool, torch_pool) <= TOLERANCE[F32]


def test_layers_of_weights_that_are_not_taken_run_one_by_one() -> None:
    pool = make().normal(7, LAYERS, 8, RANK + ROPE)
    step, layers = paged_step(3, pool, ROPE, 1), stack(latent_attention(0), experts_owned=range(2, 4))
    x, stream = make().normal(3, HIDDEN), make().normal(3, HIDDEN)

    actual = native_of(decode_stack)(x, stream.clone(), pool.clone(), layers, step)

    assert torch.equal(actual, reference(decode_stack)(x, stream, pool, layers, step))


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(
    ("experts", "groups", "top_groups"), [(12, 1, 1), (12, 4, 2), (24, 3, 3), (32, 8, 4)]
)
def test_gates(experts: int, groups: int, top_groups: int, normalise: bool, sigmoid: bool) -> None:
    assert_equal(
        moe.gate(
            make(), 5, experts, top_k=3, groups=groups, top_groups=top_groups, sigmoid=sigmoid,
            normalise=normalise,
        )
    )  # fmt: skip


def test_a_gate_that_asks_for_more_experts_than_it_may_choose_names_existing_ones_all_the_same() -> None:
    asked = {"top_k": 3, "num_groups": 6, "top_groups": 1, "normalise": False, "scale": 1.0}
    logits, bias = make().normal(5, 12), make().normal(12)

    for operation, inputs in ((gate_sigmoid_grouped, (logits, bias)), (gate_softmax_grouped, (logits,))):
        weights, ids = native_of(operation)(*(each.clone() for each in inputs), **asked)

        assert ids.min() >= 0
        assert ids.max() < 12
        assert torch.equal(weights, reference(operation)(*(each.clone() for each in inputs), **asked)[0])


def test_a_gate_that_judges_a_group_by_two_experts_refuses_groups_of_one() -> None:
    with pytest.raises(RuntimeError, match="out of range"):
        native_of(gate_sigmoid_grouped)(
            make().normal(5, 12), make().normal(12), top_k=3, num_groups=12, top_groups=4, normalise=True,
            scale=1.0,
        )  # fmt: skip


@pytest.mark.parametrize(("rows", "hidden", "width"), [(1, 7, 5), (9, 40, 24), (33, 72, 100)])
def test_a_gated_mlp(rows: int, hidden: int, width: int) -> None:
    x, gate_up = make().normal(rows, hidden), make().normal(hidden, 2 * width, scale=hidden**-0.5)
    down = make().normal(width, hidden, scale=width**-0.5)

    actual = native_of(gated_mlp)(x, gate_up, down)

    assert relative_error(actual, reference(gated_mlp)(x, gate_up, down)) <= TOLERANCE[F32]


@pytest.mark.parametrize("owned", [range(6), range(2, 4)])
@pytest.mark.parametrize(("tokens", "hidden", "width"), [(1, 7, 5), (9, 40, 24), (300, 64, 72)])
def test_routed_experts(tokens: int, hidden: int, width: int, owned: range) -> None:
    weights, x = experts(owned, hidden, width), make().normal(tokens, hidden)
    ids, routed = make().choices(tokens, 6, 2), make().uniform(tokens, 2)
    ids[-1, 0] = -1

    actual = native(reference(routed_experts))(x, ids, routed, weights)

    expected = reference(routed_experts)(x, ids, routed, weights)
    assert relative_error(actual, expected) <= TOLERANCE[F32]


def test_a_nan_reaches_what_it_is_part_of_and_nothing_else() -> None:
    q, keys, values = make().normal(1, 1, 40, 16), make().normal(1, 40, 16), make().normal(1, 40, 8)
    keys[0, 30, 3] = float("nan")

    out, _ = native_of(attend)(q, keys, values, scale=0.25, causal=True)

    assert out.isnan().any(-1)[0, 0].tolist() == [row >= 30 for row in range(40)]


def latent_attention(query_rank: int) -> MlaLayer:
    normal, heads, nope, v = make().normal, 3, 16, 12
    queries = heads * (nope + ROPE)
    return MlaLayer(
        first=normal(HIDDEN, (query_rank or queries) + RANK + ROPE, scale=HIDDEN**-0.5),
        q_norm=normal(query_rank) if query_rank else None,
        q_b=normal(query_rank, queries, scale=query_rank**-0.5) if query_rank else None,
        kv_norm=normal(RANK),
        absorb_keys=normal(heads, nope, RANK, scale=nope**-0.5),
        absorb_values=normal(heads, RANK, v, scale=RANK**-0.5),
        out=normal(heads * v, HIDDEN),
        eps=1e-6,
        scale=0.3,
    )


def grouped_attention() -> GqaLayer:
    normal, heads = make().normal, 6
    return GqaLayer(
        qkv=normal(HIDDEN, (heads + 2 * KV_HEADS) * HEAD_DIM, scale=HIDDEN**-0.5),
        qk_norm=normal(heads + KV_HEADS, HEAD_DIM),
        out=normal(heads * HEAD_DIM, HIDDEN),
        kv_heads=KV_HEADS,
        eps=1e-6,
        scale=0.3,
    )


def stack(attention: MlaLayer | GqaLayer, experts_owned: range = range(6)) -> Stack:
    """A layer with one MLP, then one with experts."""
    normal, width = make().normal, 24

    def gated(width: int) -> DenseWeights:
        return DenseWeights(
            normal(HIDDEN, 2 * width, scale=HIDDEN**-0.5), normal(width, HIDDEN, scale=width**-0.5)
        )

    gate = Gate(normal(6), top_k=2, num_groups=3, top_groups=2, normalise=True, scale=2.5)
    mixture = MoeWeights(
        normal(HIDDEN, 6, scale=HIDDEN**-0.5), gate, experts(experts_owned, HIDDEN, width), gated(20)
    )
    mlps: tuple[DenseWeights | MoeWeights, ...] = (gated(32), mixture)
    return Stack(tuple(StackLayer(attention, normal(HIDDEN), mlp, normal(HIDDEN)) for mlp in mlps), 1e-6)


def paged_step(batch: int, pool: Tensor, dim: int, planes: int) -> PagedStep:
    """Sequences of 3, 7, 11, ... tokens in blocks of 8, the last of them new."""
    block_tokens = 8
    lengths = torch.arange(batch).mul(4).add(3).clamp(max=2 * block_tokens)
    tables = (make().order(2 * batch) + 1).view(batch, 2)
    blocks = tables[torch.arange(batch), (lengths - 1) // block_tokens]
    layers = torch.arange(LAYERS).unsqueeze(1)
    first = (blocks * LAYERS + layers) * planes * block_tokens + (lengths - 1) % block_tokens
    rows = (first.unsqueeze(2) + torch.arange(planes) * block_tokens).flatten(1)
    turns = torch.polar(torch.ones(1), make().normal(batch, dim // 2, scale=3.0))
    return PagedStep(turns.unsqueeze(1) if planes > 1 else turns, rows, tables.int(), lengths.int())


def assert_layers_agree(
    operation: Callable[..., Tensor], x: Tensor, pool: Tensor, layer: MlaLayer | GqaLayer, step: PagedRows
) -> None:
    pools = pool.clone(), pool.clone()

    expected = reference(operation)(x, pools[0], layer, step)
    actual = native_of(operation)(x, pools[1], layer, step)

    assert relative_error(actual, expected) <= TOLERANCE[F32]
    assert relative_error(pools[1], pools[0]) <= TOLERANCE[F32]
    assert not torch.equal(pools[0], pool), "no KV was written"


def native_of(operation: Callable[..., Any]) -> Callable[..., Any]:
    return native(reference(operation))


def experts(owned: range, hidden: int, width: int) -> ExpertWeights:
    inputs = make()
    gate_up = inputs.normal(len(owned), hidden, 2 * width, scale=hidden**-0.5).transpose(1, 2)
    down = inputs.normal(len(owned), width, hidden, scale=width**-0.5).transpose(1, 2)
    return ExpertWeights.of(owned, gate_up, down)

"""The DeepEP backends call it as documented and give the right sums, two batches in flight included."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from baton.kernels.fp8 import dequantise_groups, quantise_blocks, quantise_groups
from baton.kernels.moe.backend import BATCHED_EXPERTS, CONTIGUOUS_EXPERTS, FormatError, StagedMoe
from baton.kernels.moe.deepep import DeepEpError, SharedBuffer, open_high_throughput
from baton.kernels.moe.deepep_elastic import DeepEpElasticBatched, DeepEpElasticContiguous
from baton.kernels.moe.deepep_high_throughput import DeepEpHighThroughput
from baton.kernels.moe.deepep_low_latency import DeepEpLowLatency
from baton.kernels.moe.experts import ExpertWeights
from support.fake_deep_ep import Buffer, ElasticBuffer, Group, MisuseError, run_threads
from support.moe_cases import Layer, owned_by

LAYER = Layer(experts=8, hidden=2048, width=16, top_k=3, dtype=torch.bfloat16)
MAX_TOKENS = 6
TOLERANCE = 0.015
"""Relative error in the Frobenius norm: bfloat16 rows and sums."""
FP8_TOLERANCE = 8e-2


def share(group: Group) -> int:
    return LAYER.experts // group.size()


def legacy(group: Group) -> SharedBuffer:
    return SharedBuffer(Buffer(group, low_latency_mode=True), Buffer.capture)


def high_throughput(group: Group, *, fp8: bool = False, buffer: SharedBuffer | None = None) -> StagedMoe[Any]:
    pair = DeepEpHighThroughput(buffer or legacy(group), LAYER.experts, share(group), fp8=fp8)
    return StagedMoe(pair, CONTIGUOUS_EXPERTS)


def low_latency(group: Group, *, fp8: bool = False, buffer: SharedBuffer | None = None) -> StagedMoe[Any]:
    pair = DeepEpLowLatency(
        buffer or legacy(group),
        num_experts=LAYER.experts,
        ranks=group.size(),
        hidden=LAYER.hidden,
        top_k=LAYER.top_k,
        max_tokens=MAX_TOKENS,
        fp8=fp8,
    )
    return StagedMoe(pair, BATCHED_EXPERTS)


def elastic(group: Group) -> ElasticBuffer:
    return ElasticBuffer(group, num_max_tokens_per_rank=MAX_TOKENS, hidden=LAYER.hidden, num_topk=LAYER.top_k)


def elastic_contiguous(group: Group) -> StagedMoe[Any]:
    return StagedMoe(DeepEpElasticContiguous(elastic(group), LAYER.experts), CONTIGUOUS_EXPERTS)


def elastic_batched(group: Group) -> StagedMoe[Any]:
    return StagedMoe(DeepEpElasticBatched(elastic(group), LAYER.experts, share(group)), BATCHED_EXPERTS)


MAKERS: dict[str, Callable[[Group], StagedMoe[Any]]] = {
    "high throughput": high_throughput,
    "high throughput, FP8": lambda group: high_throughput(group, fp8=True),
    "low latency": low_latency,
    "low latency, FP8": lambda group: low_latency(group, fp8=True),
    "elastic contiguous": elastic_contiguous,
    "elastic batched": elastic_batched,
}


def answer(name: str, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, ids, weights = batch
    rounded = dequantise_groups(*quantise_groups(x)).to(x.dtype) if "FP8" in name else x
    return LAYER.answer(rounded, ids, weights)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    error = (actual.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-10)
    return float(error) if actual.numel() else 0.0


def routing_of(group: Group, batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    return LAYER.routing(tokens, seed=10 * batch + group.rank())


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_ranks_with_different_numbers_of_tokens_get_their_sums(name: str, ranks: int) -> None:
    make = MAKERS[name]

    def run(group: Group) -> list[tuple[Tensor, Tensor]]:
        backend, weights = make(group), LAYER.weights(owned_by(group.rank(), ranks, LAYER.experts))
        batches = [
            routing_of(group, batch, tokens[group.rank()])
            for batch, tokens in enumerate(([5, 3, 6, 1], [0, 2, 0, 4]))
        ]
        return [(backend.run(*batch, weights).clone(), answer(name, batch)) for batch in batches]

    for results in run_threads(ranks, run):
        for actual, expected in results:
            assert relative_error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["high throughput, FP8", "low latency, FP8"])
def test_rows_that_travelled_in_fp8_stay_so_up_to_experts_in_fp8(name: str) -> None:
    make = MAKERS[name]

    def run(group: Group) -> tuple[Tensor, Tensor, Tensor]:
        backend, plain = make(group), LAYER.weights(owned_by(group.rank(), 2, LAYER.experts))
        gate_up, down = quantise_blocks(plain.gate_up), quantise_blocks(plain.down)
        batch = routing_of(group, 0, 5)
        begun = backend.begin(*batch, ExpertWeights.of_fp8(plain.owned, gate_up, down))
        prepared = begun.prepared()
        values, _ = prepared.rows.rows
        return values, replace(begun, prepared=lambda: prepared).compute()(), answer(name, batch)

    for values, actual, expected in run_threads(2, run):
        assert values.dtype is torch.float8_e4m3fn
        assert relative_error(actual, expected) < FP8_TOLERANCE


@pytest.mark.parametrize("name", MAKERS)
def test_two_batches_may_be_in_flight(name: str) -> None:
    make = MAKERS[name]

    def run(group: Group) -> list[tuple[Tensor, Tensor]]:
        backend, weights = make(group), LAYER.weights(owned_by(group.rank(), 2, LAYER.experts))
        batches = [routing_of(group, batch, 4) for batch in range(2)]
        begun = [backend.begin(*batch, weights) for batch in batches]
        combining = [each.compute() for each in begun]
        return [(sums(), answer(name, batch)) for sums, batch in zip(combining, batches, strict=True)]

    for results in run_threads(2, run):
        for actual, expected in results:
            assert relative_error(actual, expected) < TOLERANCE


def test_a_buffer_is_cleaned_once_between_normal_and_low_latency_kernels() -> None:
    def run(group: Group) -> tuple[int, Tensor, Tensor]:
        real = Buffer(group, low_latency_mode=True)
        buffer = SharedBuffer(real, Buffer.capture)
        weights = LAYER.weights(owned_by(group.rank(), 2, LAYER.experts))
        batch = routing_of(group, 0, 4)
        high_throughput(group, buffer=buffer).run(*batch, weights)
        decode = low_latency(group, buffer=buffer)
        decode.run(*batch, weights)
        return real.cleaned, decode.run(*batch, weights), LAYER.answer(*batch)

    for cleaned, actual, expected in run_threads(2, run):
        assert cleaned == 1
        assert relative_error(actual, expected) < TOLERANCE


def test_more_rows_than_the_frames_hold_are_refused_here_and_not_on_the_cluster() -> None:
    def run(group: Group) -> None:
        weights = LAYER.weights(owned_by(group.rank(), 2, LAYER.experts))
        low_latency(group).run(*routing_of(group, 0, MAX_TOKENS + 1), weights)

    with pytest.raises(DeepEpError, match="7 tokens, but the frames hold 6 of each rank"):
        run_threads(2, run)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": 64}, "no kernel for hidden_size 64"),
        ({"top_k": 12}, "takes 11 experts a token, not 12"),
        ({"max_tokens": 3, "ranks": 2}, "2 ranks times 3 decode rows must be a multiple of 4"),
        ({"num_experts": 9}, "9 experts cannot be shared out evenly to 4 ranks"),
    ],
)
def test_shapes_without_a_kernel_are_refused(changed: dict[str, int], message: str) -> None:
    shape = {"num_experts": 8, "ranks": 4, "hidden": 2048, "top_k": 8, "max_tokens": 4, **changed}

    with pytest.raises(DeepEpError, match=message):
        DeepEpLowLatency(None, fp8=False, **shape)  # type: ignore[arg-type]


def test_float32_rows_are_refused() -> None:
    layer = Layer(hidden=2048)

    def run(group: Group) -> None:
        x, ids, weights = layer.routing(2, seed=0)
        high_throughput(group).run(x, ids, weights, layer.weights(range(4)))

    with pytest.raises(
        DeepEpError, match=r"DeepEP carries bfloat16 rows, but the model computes in torch\.float32"
    ):
        run_threads(2, run)


def test_without_deep_ep_the_error_says_what_is_missing() -> None:
    with pytest.raises(DeepEpError, match="needs the package deep_ep"):
        open_high_throughput(None, 2048)  # type: ignore[arg-type]


def test_stages_of_different_formats_do_not_compose() -> None:
    pair = DeepEpElasticBatched(None, 8, 4)  # type: ignore[arg-type]

    with pytest.raises(FormatError, match="gives batched rows, the experts stage takes contiguous ones"):
        StagedMoe(pair, CONTIGUOUS_EXPERTS)  # type: ignore[type-var]


def test_the_stand_in_sees_a_third_low_latency_result_overwrite_the_first() -> None:
    def run(group: Group) -> bool:
        buffer = Buffer(group, low_latency_mode=True)
        x, ids = routing_of(group, 0, 2)[0], torch.tensor([[0, 5], [4, 1]])
        frames = []
        for _ in range(3):
            frame, counts, _, _, hook = buffer.low_latency_dispatch(
                x, ids, MAX_TOKENS, LAYER.experts, use_fp8=False, return_recv_hook=True
            )
            hook()
            frames.append((frame, counts))
        valid = [bool(frame[0, : counts[0]].isfinite().all()) for frame, counts in frames]
        return valid == [False, True, True]

    assert run_threads(2, run) == [True, True]


def test_the_stand_in_refuses_low_latency_kernels_on_a_dirty_buffer() -> None:
    def run(group: Group) -> None:
        buffer = Buffer(group, low_latency_mode=True)
        weights = LAYER.weights(owned_by(group.rank(), 2, LAYER.experts))
        batch = routing_of(group, 0, 2)
        high_throughput(group, buffer=SharedBuffer(buffer, Buffer.capture)).run(*batch, weights)
        low_latency(group, buffer=SharedBuffer(buffer, Buffer.capture)).run(*batch, weights)

    with pytest.raises(MisuseError, match="normal kernels ran since clean_low_latency_buffer"):
        run_threads(2, run)

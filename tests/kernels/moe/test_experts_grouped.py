"""Rows that other stages grouped are computed in a GPU's frames as they are on a CPU, plain and in FP8."""

from dataclasses import replace

import pytest
import torch

from baton.bench.gpu.error import relative_error
from baton.kernels.fp8 import dequantise_blocks, dequantise_groups, quantise_blocks, quantise_groups
from baton.kernels.moe.experts import ExpertWeights, experts_batched, experts_contiguous
from baton.kernels.moe.experts_grouped import batched_frame, contiguous_tiles
from baton.kernels.moe.prepare import prepare_batched, prepare_contiguous
from support.moe_cases import Layer

LAYER = Layer(experts=5, hidden=256, width=136, top_k=2)
FP8_TOLERANCE = 8e-2


def fp8_and_expanded() -> tuple[ExpertWeights, ExpertWeights]:
    plain = LAYER.weights()
    gate_up, down = quantise_blocks(plain.gate_up), quantise_blocks(plain.down)
    expanded = ExpertWeights.of(plain.owned, dequantise_blocks(*gate_up), dequantise_blocks(*down))
    return ExpertWeights.of_fp8(plain.owned, gate_up, down), expanded


@pytest.mark.parametrize("tokens", [0, 3, 300])
def test_contiguous_rows(tokens: int) -> None:
    x, ids, _ = LAYER.routing(tokens, seed=tokens)
    routed = prepare_contiguous(x, ids, range(LAYER.experts))
    fp8, expanded = fp8_and_expanded()
    expected = experts_contiguous(routed, expanded)

    torch.testing.assert_close(contiguous_tiles(routed, expanded), expected)
    assert relative_error(experts_contiguous(routed, fp8), expected) <= FP8_TOLERANCE


@pytest.mark.parametrize("tokens", [1, 7])
def test_rows_in_frames(tokens: int) -> None:
    x, ids, _ = LAYER.routing(tokens, seed=tokens)
    routed, _ = prepare_batched(x, ids, LAYER.experts)
    fp8, expanded = fp8_and_expanded()
    live = torch.arange(tokens) < routed.counts.unsqueeze(1)
    garbage = replace(routed, rows=routed.rows.masked_fill(~live.unsqueeze(-1), float("nan")))
    expected = experts_batched(routed, expanded)[live]

    torch.testing.assert_close(batched_frame(garbage, expanded)[live], expected)
    assert relative_error(experts_batched(garbage, fp8)[live], expected) <= FP8_TOLERANCE


@pytest.mark.parametrize("tokens", [0, 1, 3, 300])
def test_contiguous_rows_that_come_quantised_are_taken_as_they_are(tokens: int) -> None:
    x, ids, _ = LAYER.routing(tokens, seed=tokens)
    ids = ids.clamp(min=0)
    quantised = quantise_groups(x.bfloat16())
    routed = prepare_contiguous(quantised, ids, range(LAYER.experts))
    plain = prepare_contiguous(x.bfloat16(), ids, range(LAYER.experts))
    rounded = prepare_contiguous(dequantise_groups(*quantised), ids, range(LAYER.experts))
    fp8, expanded = fp8_and_expanded()

    assert torch.equal(experts_contiguous(routed, fp8), experts_contiguous(plain, fp8))
    for run in (experts_contiguous, contiguous_tiles):
        torch.testing.assert_close(run(routed, expanded), run(rounded, expanded))


def test_frames_that_come_quantised_are_taken_as_they_are() -> None:
    x, ids, _ = LAYER.routing(7, seed=7)
    plain, _ = prepare_batched(x.bfloat16(), ids, LAYER.experts)
    live = torch.arange(7) < plain.counts.unsqueeze(1)
    plain = replace(plain, rows=plain.rows.masked_fill(~live.unsqueeze(-1), 0.0))
    values, scales = (
        part.view(*plain.rows.shape[:2], -1) for part in quantise_groups(plain.rows.flatten(0, 1))
    )
    routed = replace(
        plain, rows=(values, scales.mT.contiguous().mT)
    )  # column by column, as DeepEP gives them
    rounded = replace(plain, rows=dequantise_groups(values, scales))
    fp8, expanded = fp8_and_expanded()

    assert torch.equal(experts_batched(routed, fp8)[live], experts_batched(plain, fp8)[live])
    for run in (batched_frame, experts_batched):
        torch.testing.assert_close(run(routed, expanded)[live], run(rounded, expanded)[live])

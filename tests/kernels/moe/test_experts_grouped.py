"""Rows that other stages grouped are computed in a GPU's frames as they are on a CPU, plain and in FP8."""

from dataclasses import replace

import pytest
import torch

from baton.bench.gpu.error import relative_error
from baton.kernels.fp8 import dequantise_blocks, quantise_blocks
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

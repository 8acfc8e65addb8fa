"""A model whose FP8 weights stay FP8 computes what its expanded weights do, but for rounded activations."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from baton.bench.gpu.error import relative_error
from baton.engine.models import Model, load_model
from baton.engine.models.decoder import Decoder
from baton.kernels.linear import Fp8Weight
from baton.kernels.mla_layer import MlaLayer
from support.checkpoint_files import Storage
from support.checkpoints import make_deepseek_v3
from support.model_scenario import play
from support.triton_process import play_through_triton

SHAPE = {
    "hidden_size": 256,
    "moe_intermediate_size": 128,
    "intermediate_size": 200,
    "q_lora_rank": 128,
    # Every expert is chosen: one that is next to being chosen would show how near it was, not the rounding.
    "n_routed_experts": 4,
    "num_experts_per_tok": 4,
    "n_group": 1,
    "topk_group": 1,
}
TOLERANCE = 0.2
"""Of logits, against expanded weights: products round their rows to FP8, by 2^-4 of a value at most, and the
errors of ten of them add up; 0.13 was measured."""
TRITON_TOLERANCE = 0.03
"""Of logits, against torch on the same FP8 weights: values next to a rounding boundary differ."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    return make_deepseek_v3(made, seed=5, storage=Storage.FP8, num_hidden_layers=2, **SHAPE)


def test_weights_stay_as_published_where_they_fit_the_kernels(folder: Path) -> None:
    model = load_model(folder, keep_fp8=True)

    assert isinstance(model, Decoder)
    [moe] = model.moe_layers
    assert moe.experts.scales is not None
    assert moe.experts.gate_up.dtype is torch.float8_e4m3fn
    attention = model.layers[0].attention.weights
    assert isinstance(attention, MlaLayer)
    assert isinstance(attention.first, Fp8Weight)
    assert isinstance(attention.out, Fp8Weight)


def errors(actual: dict[str, Tensor], reference: Model) -> list[float]:
    """Relative errors of logits, against those of another model that goes on with the same tokens."""
    expected = play(reference, forced=actual["tokens"])
    return [relative_error(actual[part], expected[part]) for part in ("prefill", "decode")]


def test_logits_are_close_to_those_of_expanded_weights(folder: Path) -> None:
    found = errors(play(load_model(folder, keep_fp8=True)), load_model(folder))

    assert 0 < max(found) <= TOLERANCE, found


@pytest.mark.timeout(400)
def test_triton_and_torch_agree(folder: Path, tmp_path: Path) -> None:
    used, actual = play_through_triton(folder, tmp_path / "result.safetensors", "keep_fp8")

    assert used >= {"fp8_triton", "grouped_gemm_triton", "linear_triton"}
    found = errors(actual, load_model(folder, keep_fp8=True))
    assert max(found) <= TRITON_TOLERANCE, found

"""Whole models give the same logits and tokens through their Triton kernels as through torch on a CPU.

Each model runs in a process of its own, in which every marked operation is sent to its Triton form and decode
steps have the shapes that a GPU gets; without a GPU Triton's interpreter runs the kernels. In float32, whose
products the interpreter does not truncate.
"""

from pathlib import Path

import pytest
import torch

from baton.engine.models import load_model
from support.checkpoints import MAKERS
from support.model_scenario import play
from support.triton_process import play_through_triton

LOGIT_TOLERANCE = 1e-4


EVERYWHERE = {
    "attention_triton",
    "gate_triton",
    "grouped_gemm_triton",
    "kv_rows_triton",
    "rms_norm_triton",
    "rope_triton",
    "routes_triton",
    "silu_mul_triton",
}
OWN = {"deepseek_v3": "mla_decode_triton", "qwen3_moe": "gqa_decode_triton"}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("model_type", OWN)
def test_triton_and_torch_agree(model_type: str, tmp_path: Path) -> None:
    folder = MAKERS[model_type](tmp_path / "model", seed=5, num_hidden_layers=2)
    expected = play(load_model(folder, device="cpu"))

    used, actual = play_through_triton(folder, tmp_path / "result.safetensors")

    assert used >= EVERYWHERE | {OWN[model_type]}
    assert torch.equal(actual["tokens"], expected["tokens"])
    for part in ("prefill", "decode"):
        torch.testing.assert_close(actual[part], expected[part], atol=LOGIT_TOLERANCE, rtol=0)

"""Decode steps of the shapes that a GPU gets compute what those of a CPU do, in torch alone."""

from pathlib import Path

import pytest
import torch

from baton.engine.models import load_model
from baton.engine.models.loading import load
from support.checkpoints import MAKERS
from support.model_scenario import play


@pytest.mark.parametrize("model_type", ["deepseek_v2", "deepseek_v3", "qwen3_moe"])
def test_both_shapes_give_the_same_logits(model_type: str, tmp_path: Path) -> None:
    folder = MAKERS[model_type](tmp_path, seed=5)
    expected = play(load_model(folder))

    actual = play(load(folder, device="cpu", dtype=None, on_progress=None, paged=True))

    assert torch.equal(actual["tokens"], expected["tokens"])
    torch.testing.assert_close(actual["prefill"], expected["prefill"], atol=1e-4, rtol=0)
    torch.testing.assert_close(actual["decode"], expected["decode"], atol=1e-4, rtol=0)

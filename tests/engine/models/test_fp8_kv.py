"""A model whose KV is FP8 computes what it does with wide KV, but for rounded keys and values."""

from pathlib import Path

import pytest
import torch

from baton.bench.gpu.error import relative_error
from baton.engine.models import load_model
from baton.kernels.kv_rows import read_rows, write_rows
from baton.kvtransfer.layout import layout_differences
from support.checkpoints import MAKERS
from support.driver import Driver
from support.model_scenario import play
from support.triton_process import play_through_triton

TOLERANCE = 0.25
"""Of logits: a key or value is off by 2^-4 of itself at most, and these models attend sharply, so that scores
and the routing behind them move."""
TRITON_TOLERANCE = 1e-3
"""Of logits, against torch with the same KV: float32, and values next to a rounding boundary."""
EVERY_EXPERT = {
    "deepseek_v3": {"n_routed_experts": 4, "num_experts_per_tok": 4, "n_group": 1, "topk_group": 1},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 4},
}


@pytest.fixture(scope="module", params=EVERY_EXPERT)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    return MAKERS[request.param](made, seed=5, num_hidden_layers=2, **EVERY_EXPERT[request.param])


@pytest.mark.parametrize("paged", [False, True])
def test_logits_are_close_to_those_with_wide_kv(folder: Path, paged: bool) -> None:
    actual = play(load_model(folder, fp8_kv=True, paged=paged))

    expected = play(load_model(folder), forced=actual["tokens"])

    errors = [relative_error(actual[part], expected[part]) for part in ("prefill", "decode")]
    assert 0 < max(errors) <= TOLERANCE, errors


@pytest.mark.timeout(400)
def test_triton_and_torch_agree(folder: Path, tmp_path: Path) -> None:
    _, actual = play_through_triton(folder, tmp_path / "result.safetensors", "fp8_kv")

    expected = play(load_model(folder, fp8_kv=True), forced=actual["tokens"])

    errors = [relative_error(actual[part], expected[part]) for part in ("prefill", "decode")]
    assert max(errors) <= TRITON_TOLERANCE, errors


def test_a_block_has_a_quarter_of_the_bytes_and_its_own_layout(folder: Path) -> None:
    wide, narrow = load_model(folder), load_model(folder, fp8_kv=True)
    layouts = [model.kv_layout(block_tokens=8) for model in (wide, narrow)]

    pool = Driver(narrow).pool
    assert pool.dtype is torch.float8_e4m3fn
    assert layouts[1].block_bytes * 4 == layouts[0].block_bytes
    assert pool[0].nbytes == layouts[1].block_bytes
    assert layout_differences(*layouts) == ["dtype: 'float32' here, 'float8_e4m3fn' there"]


def test_what_is_too_large_is_cut_off_and_never_a_nan() -> None:
    pool = torch.zeros(3, 4, dtype=torch.float8_e4m3fn)
    values = torch.tensor([[1e5, -1e5, 448.0, 0.1]])

    write_rows(pool, torch.tensor([1]), values)

    [row] = read_rows(pool, torch.tensor([1]), 4).float().tolist()
    assert row == [448.0, -448.0, 448.0, pytest.approx(0.1, rel=2**-4)]

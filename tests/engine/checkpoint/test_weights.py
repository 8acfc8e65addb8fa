"""Weights come in the form models compute with, and progress counts the bytes that are really read."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from baton.engine.checkpoint.reader import Checkpoint, CheckpointError
from baton.engine.checkpoint.weights import Weights
from support.checkpoint_files import write_tensors

GATE, UP = torch.arange(6.0).view(2, 3), -torch.arange(6.0).view(2, 3)
EXPERTS = {
    f"experts.{e}.{part}.weight": torch.full((2, 3), 10.0 * e + i)
    for e in range(4)
    for i, part in enumerate("gu")
}


def weights(folder: Path, tensors: dict[str, Tensor], **options: object) -> Weights:
    write_tensors(folder, tensors)
    settings = {
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "fp8_block": None,
        "wanted": lambda name: True,
    }
    return Weights(Checkpoint(folder), **{**settings, **options})  # type: ignore[arg-type]


def test_projections_of_one_input_are_joined_input_first(tmp_path: Path) -> None:
    loaded = weights(tmp_path, {"gate": GATE, "up": UP})

    matrix = loaded.projection([("gate", 2), ("up", 2)], 3)

    assert torch.equal(matrix, torch.cat((GATE, UP)).t())
    assert matrix.is_contiguous()


def test_only_owned_experts_are_stacked(tmp_path: Path) -> None:
    loaded = weights(tmp_path, EXPERTS)

    stacked = loaded.experts("experts", range(1, 3), [("g.weight", 2), ("u.weight", 2)], 3)

    assert stacked.shape == (2, 4, 3)
    assert stacked[:, :, 0].tolist() == [[10, 10, 11, 11], [20, 20, 21, 21]]


def test_other_ranks_experts_need_not_be_there(tmp_path: Path) -> None:
    loaded = weights(tmp_path, {name: value for name, value in EXPERTS.items() if ".2." in name})

    assert loaded.experts("experts", range(2, 3), [("g.weight", 2)], 3).shape == (1, 2, 3)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_stored_dtypes_are_cast_to_the_compute_dtype(tmp_path: Path, stored: torch.dtype) -> None:
    loaded = weights(tmp_path, {"gate": GATE.to(stored)}, dtype=torch.bfloat16)

    assert torch.equal(loaded.tensor("gate", (2, 3)), GATE.bfloat16())
    assert loaded.tensor("gate", (2, 3), torch.float32).dtype is torch.float32


def test_fp8_is_dequantised_by_the_blocks_of_the_configuration(tmp_path: Path) -> None:
    tensors = {"gate": GATE.to(torch.float8_e4m3fn), "gate_scale_inv": torch.tensor([[2.0, 3.0]])}

    loaded = weights(tmp_path, tensors, fp8_block=(2, 2))

    assert torch.equal(loaded.tensor("gate", (2, 3)), GATE * torch.tensor([2.0, 2.0, 3.0]))


def test_fp8_without_factors_names_both_tensors(tmp_path: Path) -> None:
    loaded = weights(tmp_path, {"gate": GATE.to(torch.float8_e4m3fn)}, fp8_block=(2, 2))

    with pytest.raises(CheckpointError, match=r"tensor gate is FP8 but gate_scale_inv is missing"):
        loaded.tensor("gate", (2, 3))


def test_fp8_without_a_configuration_says_so(tmp_path: Path) -> None:
    loaded = weights(tmp_path, {"gate": GATE.to(torch.float8_e4m3fn), "gate_scale_inv": torch.ones(1, 1)})

    with pytest.raises(
        CheckpointError, match=r"tensor gate is FP8 but config\.json has no quantization_config"
    ):
        loaded.tensor("gate", (2, 3))


def test_factors_of_a_wrong_shape_are_named(tmp_path: Path) -> None:
    tensors = {"gate": GATE.to(torch.float8_e4m3fn), "gate_scale_inv": torch.ones(2, 2)}

    loaded = weights(tmp_path, tensors, fp8_block=(2, 2))

    with pytest.raises(CheckpointError, match=r"gate_scale_inv has shape \[2, 2\], expected \[1, 2\]"):
        loaded.tensor("gate", (2, 3))


def test_progress_counts_wanted_bytes_up_to_all_of_them(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []

    loaded = weights(
        tmp_path,
        {"gate": GATE, "up": UP, "other": GATE.clone()},
        wanted=lambda name: name != "other",
        on_progress=lambda *call: calls.append(call),
    )
    loaded.projection([("gate", 2), ("up", 2)], 3)

    assert calls == [("weights", 24, 48), ("weights", 48, 48)]

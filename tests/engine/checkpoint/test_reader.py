"""A checkpoint that cannot be read is one clear error that names the file and the tensor."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from baton.engine.checkpoint.reader import Checkpoint, CheckpointError
from support.checkpoint_files import write_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "b.weight": torch.arange(8.0).view(8),
    "c.weight": torch.ones(4, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("shards", [1, 2])
def test_tensors_are_read_from_one_file_or_several(tmp_path: Path, shards: int) -> None:
    write_tensors(tmp_path, TENSORS, shards=shards)

    checkpoint = Checkpoint(tmp_path)

    assert sorted(checkpoint) == sorted(TENSORS)
    for name, value in TENSORS.items():
        assert torch.equal(checkpoint.tensor(name, tuple(value.shape)), value)
        assert checkpoint.entry(name).num_bytes == value.nbytes


def test_first_bytes_are_the_tensors_own(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS)

    head = Checkpoint(tmp_path).first_bytes("b.weight", 8)

    assert torch.equal(torch.frombuffer(bytearray(head), dtype=torch.float32), torch.tensor([0.0, 1.0]))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/model\.safetensors: no such file"):
        Checkpoint(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS)

    with pytest.raises(CheckpointError, match=rf"{tmp_path}: tensor d\.weight is missing"):
        Checkpoint(tmp_path).tensor("d.weight", (1,))


def test_a_wrong_shape_names_file_tensor_and_both_shapes(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS)

    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: tensor a\.weight has shape \[2, 3\], expected \[3, 2\]"
    ):
        Checkpoint(tmp_path).tensor("a.weight", (3, 2))


def test_an_unknown_dtype_names_file_tensor_and_the_known_ones(tmp_path: Path) -> None:
    write_tensors(tmp_path, {"a.weight": torch.ones(3, dtype=torch.int32)})

    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor a\.weight has dtype I32; known"):
        Checkpoint(tmp_path).tensor("a.weight", (3,))


def test_a_truncated_file_names_the_tensor_that_is_cut_off(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: truncated: .* tensor \w\.weight is cut off"
    ):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("size", [0, 5, 40])
def test_a_file_cut_within_its_header_is_truncated(tmp_path: Path, size: int) -> None:
    write_tensors(tmp_path, TENSORS)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])

    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated"):
        Checkpoint(tmp_path)


def test_a_header_that_is_not_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"{{{{")

    with pytest.raises(CheckpointError, match=r"model\.safetensors: the header cannot be read"):
        Checkpoint(tmp_path)


def test_a_header_with_a_malformed_entry_names_the_tensor(tmp_path: Path) -> None:
    header = json.dumps({"a.weight": {"dtype": "F32", "shape": [1]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)

    with pytest.raises(CheckpointError, match=r"header of tensor a\.weight: .*data_offsets"):
        Checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: no such file"):
        Checkpoint(tmp_path)


def test_a_shard_without_a_tensor_of_the_index_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, shards=2)
    save_file({"other": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")

    with pytest.raises(
        CheckpointError, match=r"model-00001-of-00002\.safetensors: tensor a\.weight is missing"
    ):
        Checkpoint(tmp_path)


def test_an_index_that_is_not_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": 3}')

    with pytest.raises(
        CheckpointError, match=r"index\.json: Expected `object`, got `int` - at `\$\.weight_map`"
    ):
        Checkpoint(tmp_path)

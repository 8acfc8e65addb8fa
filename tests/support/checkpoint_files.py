"""The files of a checkpoint: tensors in safetensors, in the storage formats that are published."""

import enum
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FP8_BLOCK = 128
FP8_MAX = 448.0  # largest finite float8_e4m3fn


class Storage(enum.Enum):
    """How the weights are stored."""

    FP32 = "float32"
    BF16 = "bfloat16"
    FP8 = "float8_e4m3fn"
    """Block-FP8 linears with `weight_scale_inv`, the rest bfloat16, as DeepSeek publishes."""


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of all safetensors files of a folder."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def write_tensors(folder: Path, tensors: dict[str, Tensor], *, shards: int = 1) -> None:
    """Replace a folder's weights by these, in one file or in `shards` files with an index."""
    for stale in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        stale.unlink()
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def edit_json(file: Path, *, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """Set and drop top-level keys of a JSON file; the other keys stay."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if key not in drop}, indent=2))
    return file


def stored_as(tensors: dict[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    if storage is Storage.FP32:
        return {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if storage is Storage.FP8 and _is_quantised(name):
            stored[name], stored[f"{name}_scale_inv"] = _quantise(tensor)
        else:
            exact = name.endswith("e_score_correction_bias")
            stored[name] = (tensor.float() if exact else tensor.bfloat16()).contiguous()
    return stored


def _is_quantised(name: str) -> bool:
    """Projections are FP8; embeddings, norms, router, head and `eh_proj` are not."""
    return name.endswith(("_proj.weight", "_proj_with_mqa.weight")) and not name.endswith("eh_proj.weight")


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise `[out, in]` to FP8 in 128 x 128 blocks; the scale multiplies when reading."""
    rows, columns = (math.ceil(size / FP8_BLOCK) for size in weight.shape)
    padded = torch.zeros(rows * FP8_BLOCK, columns * FP8_BLOCK)
    padded[: weight.shape[0], : weight.shape[1]] = weight.float()
    scale = padded.view(rows, FP8_BLOCK, columns, FP8_BLOCK).abs().amax(dim=(1, 3)).clamp(min=1e-12) / FP8_MAX
    quantised = weight.float() / spread_blocks(scale, weight.shape)
    return quantised.to(torch.float8_e4m3fn).contiguous(), scale


def spread_blocks(scale: Tensor, shape: torch.Size) -> Tensor:
    """Block scales as a full matrix."""
    full = scale.repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)
    return full[: shape[0], : shape[1]]

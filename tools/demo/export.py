"""Turn a training checkpoint into a Hugging Face folder, and check it against transformers.

    python -m baton.tools.demo.export --work-dir /tmp/demo-train --out models/demo

Writes config.json, generation_config.json, model.safetensors and the tokenizer's files.  The folder is
filled beside its place and moved in file by file, so that a reader never sees half a file.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from .checkpoint import load_model, load_tokenizer
from .model import DemoModel
from .tokenizer import BOS_ID, EOS_ID, save_tokenizer

_BIAS = "e_score_correction_bias"


def published_tensors(model: DemoModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's tensors under their DeepSeek-V3 names, in `dtype` (the routers' bias stays fp32).

    The MTP layer is `model.layers.<num_hidden_layers>` and carries copies of the embedding and head.
    """
    last = f"model.layers.{model.config.num_hidden_layers}"
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            tensors[name] = tensor
        elif name.startswith("next_layer."):
            tensors[name.replace("next_layer", last, 1)] = tensor
        else:
            tensors[f"model.{name}"] = tensor
    tensors[f"{last}.embed_tokens.weight"] = tensors["model.embed_tokens.weight"]
    tensors[f"{last}.shared_head.head.weight"] = tensors["lm_head.weight"]
    split = {part: value for name, tensor in tensors.items() for part, value in _split(name, tensor).items()}
    return {
        name: tensor.to(torch.float32 if name.endswith(_BIAS) else dtype).clone().contiguous()
        for name, tensor in split.items()
    }


def _split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A fused expert tensor as one tensor per expert; any other tensor as it is."""
    layer, _, kind = name.rpartition(".experts.")
    if not layer:
        return {name: tensor}
    parts: dict[str, Tensor] = {}
    for expert, weight in enumerate(tensor):
        prefix = f"{layer}.experts.{expert}"
        if kind == "down":
            parts[f"{prefix}.down_proj.weight"] = weight
        else:
            parts[f"{prefix}.gate_proj.weight"], parts[f"{prefix}.up_proj.weight"] = weight.chunk(2)
    return parts


def export(model: DemoModel, tokenizer: Tokenizer, out: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the folder `out`; other files in it are left alone."""
    config = model.config
    name = str(dtype).removeprefix("torch.")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch)
        save_file(published_tensors(model, dtype), folder / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / "config.json", config.hugging_face(name))
        _write_json(
            folder / "generation_config.json",
            {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "do_sample": False, "max_new_tokens": 128},
        )
        save_tokenizer(tokenizer, folder, config.max_position_embeddings)
        for file in sorted(folder.iterdir()):
            os.chmod(file, 0o644)
            file.replace(out / file.name)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def largest_difference(model: DemoModel, folder: Path, tokens: int = 300) -> float:
    """Largest absolute difference between our logits and transformers' on random tokens, both in fp32.

    `model` must hold the values stored in `folder` (export in float32, or load them back rounded).
    """
    from transformers import DeepseekV3ForCausalLM  # noqa: PLC0415  (seconds to import; only this check needs it)

    reference: Any = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32).train(False)
    ids = torch.randint(model.config.vocab_size, (2, tokens), generator=torch.Generator().manual_seed(0))
    model.train(False)
    with torch.no_grad():
        difference: float = (model(ids) - reference(ids).logits).abs().max().item()
    return difference


def main() -> None:
    """Export the latest checkpoint of a training run and print the difference from transformers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, required=True, help="the folder that train.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the Hugging Face folder to write")
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.work_dir), load_tokenizer(arguments.work_dir)
    with tempfile.TemporaryDirectory() as scratch:
        export(model, tokenizer, Path(scratch), torch.float32)
        difference = largest_difference(model, Path(scratch))
    print(f"largest logit difference from transformers in fp32: {difference:.2e}")
    if difference > 1e-4:
        raise SystemExit("the exported model is not the trained one: nothing written")
    export(model, tokenizer, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()

"""The exported folder is a DeepSeek-V3 checkpoint whose logits are the training model's."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from baton.tools.demo.config import DemoConfig
from baton.tools.demo.export import export, largest_difference
from baton.tools.demo.model import DemoModel, Gate


def random_model(config: DemoConfig) -> DemoModel:
    torch.manual_seed(3)
    model = DemoModel(config)
    for module in model.modules():
        if isinstance(module, Gate):
            module.e_score_correction_bias.normal_(std=0.05)
    return model


def test_transformers_computes_the_same_logits(
    tiny: DemoConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = random_model(tiny)

    export(model, tokenizer, tmp_path / "out", torch.float32)

    assert largest_difference(model, tmp_path / "out") < 1e-4


def test_weights_are_bfloat16_except_the_routers_bias(
    tiny: DemoConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export(random_model(tiny), tokenizer, tmp_path)

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        kept = {name for name in file.keys() if file.get_tensor(name).dtype != torch.bfloat16}  # noqa: SIM118
    assert kept == {f"model.layers.{layer}.mlp.gate.e_score_correction_bias" for layer in (1, 2, 3)}


def test_the_mtp_layer_follows_the_last_one_with_copies_of_embedding_and_head(
    tiny: DemoConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    export(random_model(tiny), tokenizer, tmp_path)

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
        prefix = "model.layers.3"
        embedding = file.get_tensor(f"{prefix}.embed_tokens.weight")
        assert torch.equal(embedding, file.get_tensor("model.embed_tokens.weight"))
        assert torch.equal(
            file.get_tensor(f"{prefix}.shared_head.head.weight"), file.get_tensor("lm_head.weight")
        )
        assert file.get_tensor(f"{prefix}.eh_proj.weight").shape == (32, 64)
    own = {"enorm", "hnorm", "eh_proj", "embed_tokens", "shared_head.norm", "shared_head.head"}
    assert names >= {f"{prefix}.{part}.weight" for part in own}
    assert names >= {f"{prefix}.mlp.experts.7.{part}_proj.weight" for part in ("gate", "up", "down")}


def test_an_export_replaces_its_own_files_and_no_other(
    tiny: DemoConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    (out / "README.md").write_text("mine")
    (out / "config.json").write_text("old")

    export(random_model(tiny), tokenizer, out)

    assert (out / "README.md").read_text() == "mine"
    assert json.loads((out / "config.json").read_text())["model_type"] == "deepseek_v3"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]

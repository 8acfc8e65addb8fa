"""The multi-token prediction layer computes what the published one does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.deepseek_v3 import DeepseekV3ForCausalLM

from baton.engine.batch import DecodeBatch
from baton.engine.models.config import ConfigError
from baton.engine.models.loading import load
from baton.kvtransfer.layout import layout_differences
from support.checkpoint_files import edit_json, read_tensors, write_tensors
from support.checkpoints import make_deepseek_v3, make_qwen3_moe
from support.oracle import load_oracle

LAYERS = 3
TOKENS = [(i * i * 7 + 11) % 200 + 3 for i in range(30)]
BLOCK_TOKENS = 8
TABLE = [4, 2, 7, 1]


def test_predictions_equal_those_of_the_published_layer(tmp_path: Path) -> None:
    folder = make_deepseek_v3(tmp_path / "model", mtp=True)
    expected, states = _expected(folder, TOKENS)
    model = load(folder, device="cpu", dtype=None, on_progress=None, draft=True)
    layer = model.draft
    assert layer is not None
    kv = model.new_kv_pool(9, BLOCK_TOKENS)
    assert kv.shape[1] == LAYERS + 1

    places = torch.arange(len(TOKENS) - 1)
    slots = torch.tensor(TABLE)[places // BLOCK_TOKENS] * BLOCK_TOKENS + places % BLOCK_TOKENS
    following = torch.tensor(TOKENS[1:])
    layer.write(following[:20], places[:20], slots[:20], states[:20], kv)
    for place in range(20, len(TOKENS) - 1):
        row = slice(place, place + 1)
        batch = DecodeBatch(
            token_ids=following[row],
            positions=places[row],
            slots=slots[row],
            block_tables=torch.tensor([TABLE], dtype=torch.int32),
            context_lens=torch.tensor([place + 1], dtype=torch.int32),
            live=1,
        )
        logits, _ = layer.predict(batch, states[row], kv)
        torch.testing.assert_close(logits[0], expected[place], atol=1e-4, rtol=1e-4)


def test_the_layer_is_part_of_the_layout_so_that_workers_without_it_are_refused(tmp_path: Path) -> None:
    folder = make_deepseek_v3(tmp_path / "model", mtp=True)
    without, model = (
        load(folder, device="cpu", dtype=None, on_progress=None, draft=draft) for draft in (False, True)
    )

    layout = model.kv_layout(BLOCK_TOKENS)
    assert model.new_kv_pool(3, BLOCK_TOKENS).nbytes == 3 * layout.block_bytes
    assert layout_differences(without.kv_layout(BLOCK_TOKENS), layout) == [
        f"num_layers: {LAYERS} here, {LAYERS + 1} there",
        "draft_layers: 0 here, 1 there",
    ]


def test_a_checkpoint_without_the_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="qwen3_moe has no multi-token prediction layer"):
        load(make_qwen3_moe(tmp_path / "model"), device="cpu", dtype=None, on_progress=None, draft=True)


def _expected(folder: Path, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Logits for the token after the next at each place, and the model's final states, by transformers.

    The layer runs as the only one of a model whose inputs are the joined embeddings and states.
    """
    tensors = read_tensors(folder)
    prefix = f"model.layers.{LAYERS}."
    with torch.inference_mode():
        states = load_oracle(folder).model(torch.tensor([tokens])).last_hidden_state[0]
        embedded = tensors["model.embed_tokens.weight"][tokens[1:]]
        parts = [
            torch.nn.functional.rms_norm(x, x.shape[-1:], tensors[prefix + name], 1e-6)
            for x, name in ((embedded, "enorm.weight"), (states[:-1], "hnorm.weight"))
        ]
        joined = torch.cat(parts, -1) @ tensors[prefix + "eh_proj.weight"].T
        logits = _one_layer_oracle(folder, tensors, prefix)(inputs_embeds=joined[None]).logits[0]
    return logits, states


def _one_layer_oracle(folder: Path, tensors: dict[str, Tensor], prefix: str) -> DeepseekV3ForCausalLM:
    """A model of that layer alone, between the model's embedding and head."""
    names = {name: name.replace(prefix, "model.layers.0.") for name in tensors if name.startswith(prefix)}
    names |= {name: name for name in ("model.embed_tokens.weight", "lm_head.weight")}
    names[prefix + "shared_head.norm.weight"] = "model.norm.weight"
    renamed = {new: tensors[name] for name, new in names.items()}
    alone = folder.parent / "layer"
    alone.mkdir()
    (alone / "config.json").write_text((folder / "config.json").read_text())
    edit_json(alone / "config.json", num_hidden_layers=1, first_k_dense_replace=0)
    write_tensors(alone, renamed)
    oracle = load_oracle(alone)
    assert isinstance(oracle, DeepseekV3ForCausalLM)
    return oracle

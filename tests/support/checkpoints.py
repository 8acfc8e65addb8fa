"""Tiny random checkpoints in Hugging Face format, one maker an architecture; a seed gives the same bytes.

Every maker writes a folder that transformers and Baton both load: `config.json`, `generation_config.json`,
`model.safetensors` or shards with an index, `tokenizer.json`, `tokenizer_config.json` with a chat template.
The weights are scaled so that attention, routing and greedy tokens depend on the whole prompt.

    make_deepseek_v3(folder, seed=1, storage=Storage.BF16, shards=3, num_hidden_layers=4)

Further keyword arguments override fields of the architecture's configuration.
"""

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DeepseekV2Config, DeepseekV3Config, PreTrainedModel, Qwen3MoeConfig
from transformers.models.deepseek_v2 import DeepseekV2ForCausalLM
from transformers.models.deepseek_v3 import DeepseekV3ForCausalLM
from transformers.models.qwen3_moe import Qwen3MoeForCausalLM

from .checkpoint_files import FP8_BLOCK, Storage, edit_json, read_tensors, stored_as, write_tensors
from .tokenizers import BOS_ID, EOS_ID, VOCABULARY, write_tokenizer

transformers.utils.logging.disable_progress_bar()

YARN = {
    "type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
"""DeepSeek-V3's YaRN settings, shrunk so that short prompts reach the interpolated range."""

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
}
_MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}


def make_deepseek_v2(
    folder: Path,
    *,
    seed: int = 0,
    storage: Storage = Storage.FP32,
    shards: int = 1,
    new_rope_spelling: bool = False,
    **overrides: Any,
) -> Path:
    """DeepSeek-V2: softmax routing, greedy or group_limited_greedy; `q_lora_rank` may be None."""
    settings = {
        **_COMMON,
        **_MLA,
        "q_lora_rank": 24,
        "topk_method": "group_limited_greedy",
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 4.0,
        "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        **overrides,
    }
    model = DeepseekV2ForCausalLM(DeepseekV2Config(**_for_transformers(settings)))
    extra = {"topk_method": settings["topk_method"], "scoring_func": "softmax", "norm_topk_prob": False}
    return _write(
        folder, model, settings, extra, seed=seed, storage=storage, shards=shards, new_rope=new_rope_spelling
    )


def make_deepseek_v3(
    folder: Path,
    *,
    seed: int = 0,
    storage: Storage = Storage.FP32,
    shards: int = 1,
    new_rope_spelling: bool = False,
    mtp: bool = False,
    **overrides: Any,
) -> Path:
    """DeepSeek-V3/R1: sigmoid `noaux_tc` routing in groups, YaRN; `mtp` adds the tensors of one MTP layer."""
    settings = {
        **_COMMON,
        **_MLA,
        "q_lora_rank": 24,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 1 if mtp else 0,
        "rope_scaling": YARN,
        **overrides,
    }
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**_for_transformers(settings)))
    extra = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    return _write(
        folder, model, settings, extra, seed=seed, storage=storage, shards=shards, new_rope=new_rope_spelling
    )


def make_kimi_k2(folder: Path, **options: Any) -> Path:
    """Kimi-K2: DeepSeek-V3's architecture, one routing group, YaRN beta 1/1, a model type of its own."""
    kimi = {
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "n_routed_experts": 12,
        "routed_scaling_factor": 2.827,
        "rope_theta": 50000.0,
        "rope_scaling": {**YARN, "beta_fast": 1.0, "beta_slow": 1.0},
    }
    make_deepseek_v3(folder, **{**kimi, **options})
    return edit_json(folder / "config.json", model_type="kimi_k2").parent


def make_qwen3_moe(
    folder: Path,
    *,
    seed: int = 0,
    storage: Storage = Storage.FP32,
    shards: int = 1,
    new_rope_spelling: bool = False,
    **overrides: Any,
) -> Path:
    """Qwen3-MoE: grouped-query attention with q/k norms, softmax top-k routing, no shared expert."""
    settings = {
        **_COMMON,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 8,
        "norm_topk_prob": True,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        **overrides,
    }
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**_for_transformers(settings)))
    extra = {"num_experts": settings["num_experts"]}
    return _write(
        folder, model, settings, extra, seed=seed, storage=storage, shards=shards, new_rope=new_rope_spelling
    )


MAKERS = {
    "deepseek_v2": make_deepseek_v2,
    "deepseek_v3": make_deepseek_v3,
    "kimi_k2": make_kimi_k2,
    "qwen3_moe": make_qwen3_moe,
}


def _for_transformers(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with rope in the spelling that transformers 5 takes."""
    rest = {key: value for key, value in settings.items() if key not in ("rope_scaling", "rope_theta")}
    return {**rest, "rope_parameters": _rope_parameters(settings), "tie_word_embeddings": False}


def _rope_parameters(settings: dict[str, Any]) -> dict[str, Any]:
    scaling = dict(settings["rope_scaling"] or {})
    kind = scaling.pop("type", "default")
    return {"rope_type": kind, "rope_theta": settings.get("rope_theta", 10000.0), **scaling}


def _write(
    folder: Path,
    model: PreTrainedModel,
    settings: dict[str, Any],
    extra: dict[str, Any],
    *,
    seed: int,
    storage: Storage,
    shards: int,
    new_rope: bool,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    _randomise(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    tensors = read_tensors(folder)
    if settings.get("num_nextn_predict_layers"):
        tensors |= _mtp_tensors(tensors, settings, torch.Generator().manual_seed(seed + 1))
    write_tensors(folder, stored_as(tensors, storage), shards=shards)
    quantization = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    changes = {**extra, "dtype": "float32" if storage is Storage.FP32 else "bfloat16"}
    if storage is Storage.FP8:
        changes["quantization_config"] = {**quantization, "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}
    if new_rope:
        edit_json(folder / "config.json", **changes, rope_parameters=_rope_parameters(settings))
    else:
        changes |= {
            "rope_scaling": settings["rope_scaling"],
            "rope_theta": settings.get("rope_theta", 10000.0),
        }
        edit_json(folder / "config.json", drop=("rope_parameters",), **changes)
    write_tokenizer(folder)
    return folder


def _randomise(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Draw every weight: matrices scaled to their input width, norms around one, biases that matter."""
    gains = {"lm_head": 3.0, "mlp.gate.weight": 2.0, "o_proj": 3.0, "kv_a_proj": 1.5, "q_": 1.5}
    for name, tensor in sorted(model.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            value = 1.0 + 0.1 * noise
        elif tensor.dim() == 1:
            value = 0.3 * noise
        elif "embed" in name:
            value = 0.5 * noise
        else:
            gain = next((gain for part, gain in gains.items() if part in name), 1.0)
            value = gain / math.sqrt(tensor.shape[-1]) * noise
        tensor.copy_(value)


def _mtp_tensors(
    tensors: dict[str, Tensor], settings: dict[str, Any], generator: torch.Generator
) -> dict[str, Tensor]:
    """One more MoE layer, unlike the others, under the names of the multi-token prediction layer."""
    hidden, last = settings["hidden_size"], settings["num_hidden_layers"] - 1
    source, target = f"model.layers.{last}.", f"model.layers.{last + 1}."
    layer = {
        target + name.removeprefix(source): tensor.roll(1, 0)
        for name, tensor in tensors.items()
        if name.startswith(source)
    }

    def norm() -> Tensor:
        return 1.0 + 0.1 * torch.randn(hidden, generator=generator)

    extra = {
        "enorm.weight": norm(),
        "hnorm.weight": norm(),
        "eh_proj.weight": torch.randn(hidden, 2 * hidden, generator=generator) / math.sqrt(2 * hidden),
        "embed_tokens.weight": tensors["model.embed_tokens.weight"].clone(),
        "shared_head.norm.weight": norm(),
        "shared_head.head.weight": tensors["lm_head.weight"].clone(),
    }
    return {**layer, **{target + name: tensor for name, tensor in extra.items()}}

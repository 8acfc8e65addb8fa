"""transformers as the oracle for checkpoints of `checkpoints.py`."""

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import DeepseekV2Config, DeepseekV3Config, PreTrainedConfig, PreTrainedModel, Qwen3MoeConfig
from transformers.models.deepseek_v2 import DeepseekV2ForCausalLM
from transformers.models.deepseek_v3 import DeepseekV3ForCausalLM
from transformers.models.qwen3_moe import Qwen3MoeForCausalLM

from .checkpoint_files import read_tensors, spread_blocks

_TRANSFORMERS: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "deepseek_v2": (DeepseekV2Config, DeepseekV2ForCausalLM),
    "deepseek_v3": (DeepseekV3Config, DeepseekV3ForCausalLM),
    "kimi_k2": (DeepseekV3Config, DeepseekV3ForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
}


def load_oracle(folder: Path) -> PreTrainedModel:
    """Load a checkpoint of this module with transformers, in float32 with eager attention.

    FP8 weights are dequantised first; transformers itself needs a GPU for them.
    """
    raw = json.loads((folder / "config.json").read_text())
    raw.pop("quantization_config", None)
    config_class, model_class = _TRANSFORMERS[raw["model_type"]]
    config = config_class.from_dict({**raw, "model_type": config_class.model_type})
    config.dtype = torch.float32
    state = _dequantised(read_tensors(folder))
    with torch.device("meta"):
        names = set(model_class(config).state_dict())
    own = {name: tensor for name, tensor in _fused(state, config, names).items() if name in names}
    model = model_class._from_config(config, attn_implementation="eager").eval()
    model.load_state_dict(own, strict=True)
    return model


def oracle_greedy(
    oracle: PreTrainedModel, prompt: list[int], count: int, *, guess: list[int] | None = None
) -> list[int]:
    """The oracle's next `count` greedy tokens, end tokens ignored.

    A right guess is confirmed in one pass: after each of its tokens the oracle must choose the next one.
    """
    with torch.inference_mode():
        if guess is not None and len(guess) == count:
            logits = oracle(torch.tensor([prompt + guess[:-1]])).logits[0, len(prompt) - 1 :]
            if logits.argmax(-1).tolist() == guess:
                return guess
        tokens = oracle.generate(
            torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return tokens[0, len(prompt) :].tolist()


def oracle_logits(oracle: PreTrainedModel, prompt: list[int]) -> Tensor:
    """The oracle's logits after the prompt's last token: [vocab]."""
    with torch.inference_mode():
        return oracle(torch.tensor([prompt])).logits[0, -1]


def _dequantised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        scale = tensors.get(name + "_scale_inv")
        result[name] = (
            tensor.float() if scale is None else tensor.float() * spread_blocks(scale, tensor.shape)
        )
    return result


def _fused(state: dict[str, Tensor], config: PreTrainedConfig, names: set[str]) -> dict[str, Tensor]:
    """Stack per-expert tensors the way transformers holds them in memory."""
    fused = dict(state)
    for name in names:
        if not name.endswith("experts.gate_up_proj"):
            continue
        prefix = name.removesuffix("gate_up_proj")
        experts = range(sum(key.startswith(prefix) and key.endswith("down_proj.weight") for key in state))
        pair = [[state[f"{prefix}{e}.{part}_proj.weight"] for part in ("gate", "up")] for e in experts]
        fused[name] = torch.stack([torch.cat(matrices) for matrices in pair])
        fused[prefix + "down_proj"] = torch.stack([state[f"{prefix}{e}.down_proj.weight"] for e in experts])
    return fused

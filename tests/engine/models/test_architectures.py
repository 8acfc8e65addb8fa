"""A configuration in any published spelling becomes the same `ModelConfig`, or one error naming the key."""

import json
from pathlib import Path
from typing import Any

import pytest

from baton.engine.models.architectures import read_model_config
from baton.engine.models.config import ConfigError, GqaConfig, MlaConfig, RopeConfig, Scoring, YarnConfig

YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
DEEPSEEK_V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "max_position_embeddings": 163840,
    "rope_scaling": YARN,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "num_nextn_predict_layers": 1,
    "attention_bias": False,
    "hidden_act": "silu",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "torch_dtype": "bfloat16",
}
QWEN3_MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "mlp_only_layers": [1],
    "decoder_sparse_step": 2,
    "eos_token_id": [151645, 151643],
}


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def test_deepseek_v3_as_published(tmp_path: Path) -> None:
    config = read_model_config(write(tmp_path, DEEPSEEK_V3))

    assert isinstance(config.attention, MlaConfig)
    assert (config.attention.qk_head_dim, config.attention.latent_dim) == (192, 576)
    assert config.moe.scoring is Scoring.SIGMOID_GROUPED
    assert (config.moe.num_experts, config.moe.top_k, config.moe.num_groups, config.moe.top_groups) == (
        256,
        8,
        8,
        4,
    )
    assert config.moe.shared_intermediate_size == 2048
    assert config.dense_layers == (0, 1, 2)
    assert config.mtp_layers == 1
    assert config.fp8_block == (128, 128)
    assert config.dtype == "bfloat16"
    assert config.rope == RopeConfig(
        theta=10000.0,
        dim=64,
        yarn=YarnConfig(factor=40, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=1.0),
    )


def test_both_spellings_of_rope_say_the_same(tmp_path: Path) -> None:
    new = without(DEEPSEEK_V3, "rope_scaling", "rope_theta")
    new["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 10000.0, **without(YARN, "type")}

    old_config = read_model_config(write(tmp_path, DEEPSEEK_V3))
    new_config = read_model_config(write(tmp_path, new))

    assert new_config == old_config


def test_deepseek_saved_without_its_routing_method_gets_its_generations(tmp_path: Path) -> None:
    v3 = read_model_config(write(tmp_path, without(DEEPSEEK_V3, "topk_method")))
    v2 = read_model_config(
        write(tmp_path, {**without(DEEPSEEK_V3, "topk_method"), "model_type": "deepseek_v2"})
    )

    assert v3.moe.scoring is Scoring.SIGMOID_GROUPED
    assert v2.moe.scoring is Scoring.SOFTMAX


def test_greedy_routing_ignores_groups(tmp_path: Path) -> None:
    config = read_model_config(write(tmp_path, {**DEEPSEEK_V3, "topk_method": "greedy"}))

    assert (config.moe.num_groups, config.moe.top_groups) == (1, 1)


def test_kimi_k2_is_deepseek_v3_under_its_own_name(tmp_path: Path) -> None:
    kimi = {**DEEPSEEK_V3, "model_type": "kimi_k2", "n_routed_experts": 384, "n_group": 1, "topk_group": 1}

    config = read_model_config(write(tmp_path, kimi))

    assert (config.model_type, config.moe.num_experts, config.moe.num_groups) == ("kimi_k2", 384, 1)


def test_qwen3_moe_with_dense_layers_in_between(tmp_path: Path) -> None:
    config = read_model_config(write(tmp_path, QWEN3_MOE))

    assert config.attention == GqaConfig(kv_heads=4, head_dim=128)
    assert config.moe.scoring is Scoring.SOFTMAX
    assert config.moe.shared_intermediate_size == 0
    assert config.dense_layers == (0, 1, 2, 4)
    assert config.eos_token_ids == (151645, 151643)


def test_expert_counts_are_known_by_either_name(tmp_path: Path) -> None:
    renamed = {**without(QWEN3_MOE, "num_experts"), "num_local_experts": 128}

    assert read_model_config(write(tmp_path, renamed)) == read_model_config(write(tmp_path, QWEN3_MOE))


def test_end_tokens_of_the_generation_file_are_added(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7]}))

    assert read_model_config(write(tmp_path, DEEPSEEK_V3)).eos_token_ids == (1, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, r"model_type 'gpt2' is not known; known are deepseek_v2, .*qwen3_moe"),
        ({"model_type": None}, r"model_type None is not known"),
        ({"model_type": ["x"]}, r"model_type \['x'\] is not known"),
        ({"hidden_size": "7168"}, r"Expected `int`, got `str` - at `\$\.hidden_size`"),
        (
            {"rope_scaling": {"factor": "x"}},
            r"Expected `float \| null`, got `str` - at `\$\.rope_scaling\.factor`",
        ),
        ({"rope_scaling": {**YARN, "type": "longrope"}}, r"rope type 'longrope' is not known"),
        ({"rope_scaling": {"type": "yarn"}}, r"yarn rope misses original_max_position_embeddings"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu' is not supported"),
        ({"attention_bias": True}, r"attention_bias true is not supported"),
        ({"moe_layer_freq": 2}, r"moe_layer_freq 2 is not supported"),
        ({"rope_interleave": False}, r"rope_interleave false is not supported"),
        ({"topk_method": "best"}, r"topk_method 'best' is not known; known are noaux_tc"),
        ({"n_group": 7}, r"routing does not fit: 8 of 256 experts in 4 of 7 groups"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config: awq e4m3 is not supported"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantization_config misses weight_block_size"),
        ({"num_attention_heads": 0}, r"Expected `int` >= 1 - at `\$\.num_attention_heads`"),
    ],
)
def test_what_cannot_be_used_names_file_and_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"{tmp_path}/config\.json: {message}"):
        read_model_config(write(tmp_path, {**DEEPSEEK_V3, **change}))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: Object missing required field `kv_lora_rank`"):
        read_model_config(write(tmp_path, without(DEEPSEEK_V3, "kv_lora_rank")))


def test_qwen3_moe_without_experts_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: .*num_experts"):
        read_model_config(write(tmp_path, without(QWEN3_MOE, "num_experts")))


def test_sliding_windows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"use_sliding_window true is not supported"):
        read_model_config(write(tmp_path, {**QWEN3_MOE, "use_sliding_window": True}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: no such file"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_file_that_is_not_an_object_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(ConfigError, match=r"config\.json: "):
        read_model_config(tmp_path)


def test_a_malformed_generation_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "end"}))

    with pytest.raises(ConfigError, match=r"generation_config\.json: .*eos_token_id"):
        read_model_config(write(tmp_path, DEEPSEEK_V3))

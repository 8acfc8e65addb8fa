"""The demo model's shape, in the words of a DeepSeek-V3 `config.json`.

Field names are the published ones, so that the configuration file is this struct written out.
"""

from typing import Any

import msgspec

from .tokenizer import BOS_ID, EOS_ID


class DemoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the model; the defaults are what is shipped."""

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 576
    moe_intermediate_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    n_shared_experts: int = 1
    routed_scaling_factor: float = 1.5
    first_k_dense_replace: int = 1
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key of one head: the part without and the part with rotation."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def hugging_face(self, dtype: str) -> dict[str, Any]:
        """The content of `config.json` for weights stored as `dtype` ("bfloat16", "float32")."""
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            **msgspec.structs.asdict(self),
            "num_key_value_heads": self.num_attention_heads,
            "q_lora_rank": None,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "moe_layer_freq": 1,
            "num_nextn_predict_layers": 1,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rope_scaling": None,
            "rope_interleave": True,
            "tie_word_embeddings": False,
            "use_cache": True,
            "bos_token_id": BOS_ID,
            "eos_token_id": EOS_ID,
            "torch_dtype": dtype,
        }

"""Qwen3-MoE: grouped-query attention with normalised queries and keys, routed experts alone. No torch."""

from .config import ConfigError, GqaConfig, ModelConfig, MoeConfig, Scoring
from .config_file import ConfigFile, Size, model_config


class Qwen3MoeFile(ConfigFile, frozen=True, kw_only=True):
    """`config.json` of the architecture."""

    num_key_value_heads: Size
    head_dim: Size | None = None
    num_experts: Size | None = None
    num_local_experts: Size | None = None
    norm_topk_prob: bool = False
    decoder_sparse_step: Size = 1
    mlp_only_layers: tuple[int, ...] = ()
    use_sliding_window: bool = False


def qwen3_moe_config(file: Qwen3MoeFile) -> ModelConfig:
    """Make the configuration of what the file says. Raises `ConfigError`."""
    if file.use_sliding_window:
        raise ConfigError("use_sliding_window true is not supported")
    num_experts = file.num_experts or file.num_local_experts
    if not num_experts:
        raise ConfigError("Object missing required field `num_experts`")
    moe = MoeConfig(
        num_experts=num_experts,
        top_k=file.num_experts_per_tok,
        intermediate_size=file.moe_intermediate_size,
        shared_intermediate_size=0,
        scoring=Scoring.SOFTMAX,
        num_groups=1,
        top_groups=1,
        normalise=file.norm_topk_prob,
        scale=1.0,
    )
    head_dim = file.head_dim or file.hidden_size // file.num_attention_heads
    dense = tuple(
        layer
        for layer in range(file.num_hidden_layers)
        if layer in file.mlp_only_layers or (layer + 1) % file.decoder_sparse_step
    )
    attention = GqaConfig(kv_heads=file.num_key_value_heads, head_dim=head_dim)
    return model_config(file, attention, moe, dense, rope_dim=head_dim, mtp_layers=0)

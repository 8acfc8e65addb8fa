"""DeepSeek V2, V3 and R1, and Kimi-K2: MLA and routed experts beside shared ones. No torch."""

from .config import ConfigError, MlaConfig, ModelConfig, MoeConfig, Scoring
from .config_file import ConfigFile, Size, model_config


class DeepseekFile(ConfigFile, frozen=True, kw_only=True):
    """`config.json` of the architecture."""

    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Size
    n_routed_experts: Size
    q_lora_rank: Size | None = None
    n_shared_experts: int | None = None
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    routed_scaling_factor: float = 1.0
    topk_method: str | None = None
    n_group: Size | None = None
    topk_group: Size | None = None
    norm_topk_prob: bool = False
    rope_interleave: bool = True
    num_nextn_predict_layers: int | None = None
    num_mtp_layers: int | None = None


def deepseek_config(file: DeepseekFile) -> ModelConfig:
    """Make the configuration of what the file says. Raises `ConfigError`."""
    if file.moe_layer_freq != 1:
        raise ConfigError(f"moe_layer_freq {file.moe_layer_freq} is not supported; only 1 is")
    if not file.rope_interleave:
        raise ConfigError("rope_interleave false is not supported")
    if file.qk_rope_head_dim % 2 or file.v_head_dim > file.qk_nope_head_dim + file.qk_rope_head_dim:
        raise ConfigError("qk_rope_head_dim must be even, and v_head_dim no wider than a query")
    scoring = _scoring(file)
    grouped = scoring is not Scoring.SOFTMAX
    moe = MoeConfig(
        num_experts=file.n_routed_experts,
        top_k=file.num_experts_per_tok,
        intermediate_size=file.moe_intermediate_size,
        shared_intermediate_size=file.moe_intermediate_size * (file.n_shared_experts or 0),
        scoring=scoring,
        num_groups=(file.n_group or 1) if grouped else 1,
        top_groups=(file.topk_group or 1) if grouped else 1,
        normalise=file.norm_topk_prob,
        scale=file.routed_scaling_factor,
    )
    attention = MlaConfig(
        q_lora_rank=file.q_lora_rank,
        kv_lora_rank=file.kv_lora_rank,
        qk_nope_head_dim=file.qk_nope_head_dim,
        qk_rope_head_dim=file.qk_rope_head_dim,
        v_head_dim=file.v_head_dim,
    )
    dense = tuple(range(min(file.first_k_dense_replace, file.num_hidden_layers)))
    mtp = file.num_nextn_predict_layers or file.num_mtp_layers or 0
    return model_config(file, attention, moe, dense, rope_dim=file.qk_rope_head_dim, mtp_layers=mtp)


def _scoring(file: DeepseekFile) -> Scoring:
    """`topk_method`; files saved without it get what their generation of the architecture uses."""
    default = Scoring.SOFTMAX if file.model_type == "deepseek_v2" else Scoring.SIGMOID_GROUPED
    try:
        return Scoring(file.topk_method) if file.topk_method else default
    except ValueError:
        known = ", ".join(scoring.value for scoring in Scoring)
        raise ConfigError(f"topk_method {file.topk_method!r} is not known; known are {known}") from None

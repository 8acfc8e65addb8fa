"""The shape of a model, in one vocabulary for all architectures. No torch.

`architectures.read_model_config` makes a `ModelConfig` of a folder's `config.json`.
"""

import enum

import msgspec


class ConfigError(Exception):
    """A configuration file is missing, malformed, or of a model that is not known."""


class Scoring(enum.Enum):
    """How router logits become scores and how experts are picked."""

    SIGMOID_GROUPED = "noaux_tc"
    """DeepSeek-V3: sigmoid, a bias for the choice only, groups ranked by their two best experts."""
    SOFTMAX_GROUPED = "group_limited_greedy"
    """DeepSeek-V2: softmax, groups ranked by their best expert."""
    SOFTMAX = "greedy"
    """Softmax over all experts, then top-k."""


class YarnConfig(msgspec.Struct, frozen=True, kw_only=True):
    """YaRN context extension (arXiv 2309.00071), with DeepSeek's `mscale`."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True


class RopeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary position embedding."""

    theta: float
    dim: int
    """Values of a head that are rotated."""
    yarn: YarnConfig | None = None


class MlaConfig(msgspec.Struct, frozen=True, kw_only=True, tag="mla"):
    """Multi-head latent attention."""

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key of one head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Values cached a token and a layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim


class GqaConfig(msgspec.Struct, frozen=True, kw_only=True, tag="gqa"):
    """Grouped-query attention with normalised queries and keys."""

    kv_heads: int
    head_dim: int


class MoeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The routed and the shared experts of a layer."""

    num_experts: int
    top_k: int
    intermediate_size: int
    """Width of one routed expert."""
    shared_intermediate_size: int
    """Width of all shared experts together; 0 without."""
    scoring: Scoring
    num_groups: int
    top_groups: int
    normalise: bool
    """The chosen experts' weights are divided by their sum."""
    scale: float
    """Factor on the weights. Softmax routing takes it only where it does not normalise."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    """Width of the dense MLPs."""
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    attention: MlaConfig | GqaConfig
    moe: MoeConfig
    dense_layers: tuple[int, ...]
    """Layers whose MLP is dense; the others are mixtures of experts."""
    mtp_layers: int
    """Multi-token prediction layers that follow the decoder's in the checkpoint."""
    tie_word_embeddings: bool
    dtype: str | None
    """The checkpoint's own, e.g. `bfloat16`."""
    fp8_block: tuple[int, int] | None
    """Rows and columns that share a factor in block-FP8 weights; None where weights are not quantised."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

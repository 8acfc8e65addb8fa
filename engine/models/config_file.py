"""What the `config.json` files of all architectures share, and how they become a `ModelConfig`. No torch.

Published files spell the same thing in several ways: rotary settings stand in `rope_scaling` beside
`rope_theta` or in `rope_parameters`, their kind under `type` or `rope_type`.
"""

from typing import Annotated

import msgspec

from .config import ConfigError, GqaConfig, MlaConfig, ModelConfig, MoeConfig, RopeConfig, YarnConfig

Size = Annotated[int, msgspec.Meta(ge=1)]


class RopeFile(msgspec.Struct, frozen=True, kw_only=True):
    """`rope_scaling` or `rope_parameters`."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float | None = None
    original_max_position_embeddings: Size | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True


class QuantizationFile(msgspec.Struct, frozen=True, kw_only=True):
    """`quantization_config`."""

    quant_method: str
    fmt: str = "e4m3"
    weight_block_size: tuple[Size, Size] | None = None


class ConfigFile(msgspec.Struct, frozen=True, kw_only=True):
    """Keys that every architecture has."""

    model_type: str
    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    moe_intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_experts_per_tok: Size
    max_position_embeddings: Size
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    rope_theta: float | None = None
    rope_scaling: RopeFile | None = None
    rope_parameters: RopeFile | None = None
    quantization_config: QuantizationFile | None = None
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    torch_dtype: str | None = None
    dtype: str | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


def model_config(
    file: ConfigFile,
    attention: MlaConfig | GqaConfig,
    moe: MoeConfig,
    dense_layers: tuple[int, ...],
    *,
    rope_dim: int,
    mtp_layers: int,
) -> ModelConfig:
    """Join what all files share with what an architecture made of its own keys. Raises `ConfigError`."""
    if file.hidden_act != "silu":
        raise ConfigError(f"hidden_act {file.hidden_act!r} is not supported; only 'silu' is")
    if file.attention_bias:
        raise ConfigError("attention_bias true is not supported")
    if moe.num_experts % moe.num_groups or moe.top_k > moe.num_experts * moe.top_groups // moe.num_groups:
        raise ConfigError(
            f"routing does not fit: {moe.top_k} of {moe.num_experts} experts in {moe.top_groups} of "
            f"{moe.num_groups} groups"
        )
    return ModelConfig(
        model_type=file.model_type,
        vocab_size=file.vocab_size,
        hidden_size=file.hidden_size,
        num_layers=file.num_hidden_layers,
        num_heads=file.num_attention_heads,
        intermediate_size=file.intermediate_size,
        max_position_embeddings=file.max_position_embeddings,
        rms_norm_eps=file.rms_norm_eps,
        rope=_rope_config(file, rope_dim),
        attention=attention,
        moe=moe,
        dense_layers=dense_layers,
        mtp_layers=mtp_layers,
        tie_word_embeddings=file.tie_word_embeddings,
        dtype=file.dtype or file.torch_dtype,
        fp8_block=_fp8_block(file.quantization_config),
        bos_token_id=file.bos_token_id,
        eos_token_ids=as_ids(file.eos_token_id),
    )


def _rope_config(file: ConfigFile, dim: int) -> RopeConfig:
    settings = file.rope_parameters or file.rope_scaling
    theta = (settings and settings.rope_theta) or file.rope_theta or 10000.0
    kind = (settings and (settings.rope_type or settings.type)) or "default"
    if settings is None or kind == "default":
        return RopeConfig(theta=theta, dim=dim)
    if kind != "yarn":
        raise ConfigError(f"rope type {kind!r} is not known; known are default, yarn")
    if settings.original_max_position_embeddings is None:
        raise ConfigError("yarn rope misses original_max_position_embeddings")
    original = settings.original_max_position_embeddings
    yarn = YarnConfig(
        factor=settings.factor or file.max_position_embeddings / original,
        original_max_position_embeddings=original,
        beta_fast=settings.beta_fast or 32.0,
        beta_slow=settings.beta_slow or 1.0,
        mscale=settings.mscale,
        mscale_all_dim=settings.mscale_all_dim,
        attention_factor=settings.attention_factor,
        truncate=settings.truncate,
    )
    return RopeConfig(theta=theta, dim=dim, yarn=yarn)


def _fp8_block(quantization: QuantizationFile | None) -> tuple[int, int] | None:
    if quantization is None:
        return None
    if (quantization.quant_method, quantization.fmt) != ("fp8", "e4m3"):
        method = f"{quantization.quant_method} {quantization.fmt}"
        raise ConfigError(f"quantization_config: {method} is not supported; only fp8 e4m3 is")
    if quantization.weight_block_size is None:
        raise ConfigError("quantization_config misses weight_block_size; only block-FP8 is supported")
    return quantization.weight_block_size


def as_ids(ids: int | list[int] | None) -> tuple[int, ...]:
    """Token ids that a file spells as one number, a list or null."""
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)

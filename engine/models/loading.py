"""From a checkpoint folder to a model: configuration, weights, and the parts put together."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ...kernels.by_device import serves
from ...kernels.moe.backend import LocalMoe, MoeBackend
from ...kernels.moe.experts import ExpertWeights
from ...kernels.moe.grouped import GroupedMoe
from ..checkpoint.reader import Checkpoint
from ..checkpoint.weights import OnProgress, Weights, ignore_progress
from .architectures import read_model_config
from .attention import Attention, Geometry
from .config import ConfigError, MlaConfig, ModelConfig
from .decoder import Decoder
from .digest import model_digest
from .gqa import GqaAttention, GqaGeometry, read_gqa
from .layer import DecoderWeights, Layer
from .mla import MlaGeometry, read_mla
from .mlp import DenseMlp, ExpertShare, Mlp, MoeMlp, read_experts
from .mtp import MtpLayer, MtpWeights
from .rope_table import rope_table

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    folder: Path,
    *,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
    on_progress: OnProgress | None,
    experts: range | None = None,
    backend: MoeBackend | None = None,
    redundant: int = 0,
    paged: bool | None = None,
    keep_fp8: bool | None = None,
    fp8_kv: bool = False,
    draft: bool = False,
) -> Decoder:
    """Load a model; of the routed experts only those in the slots `experts`, all without it.

    backend    reaches the experts of other ranks; absent: all experts are here
    redundant  slots of all ranks beyond one an expert
    paged      see `form_on`
    keep_fp8   see `form_on`
    fp8_kv     KV is stored as float8_e4m3fn, a layout of its own
    draft      load the multi-token prediction layer too; `ConfigError` where there is none
    """
    config = read_model_config(folder)
    if draft and not config.mtp_layers:
        raise ConfigError(f"{folder}: this {config.model_type} has no multi-token prediction layer")
    checkpoint = Checkpoint(folder)
    device = torch.device(device)
    form = form_on(device, paged=paged, keep_fp8=keep_fp8)
    owned = experts if experts is not None else range(config.moe.num_experts)
    own_experts = {slot % config.moe.num_experts for slot in owned}
    weights = Weights(
        checkpoint,
        device=device,
        dtype=_compute_dtype(config, device, dtype),
        fp8_block=config.fp8_block,
        wanted=lambda name: _is_wanted(name, config.num_layers + draft, own_experts),
        on_progress=on_progress or ignore_progress,
        published_experts=form.is_paged,
        keep_fp8=form.keeps_fp8,
    )
    local: MoeBackend = GroupedMoe() if form.is_paged else LocalMoe()
    share = ExpertShare(config.moe.num_experts + redundant, owned, backend or local)
    surroundings = _surroundings(weights, config, device)
    layers = [_layer(weights, index, config, share) for index in range(config.num_layers + draft)]
    geometry = _geometry(config, len(layers))
    return Decoder(
        config,
        geometry,
        surroundings,
        layers[: config.num_layers],
        digest=model_digest(config, checkpoint),
        is_in_step=backend is not None,
        is_paged=form.is_paged,
        kv_dtype=torch.float8_e4m3fn if fp8_kv else None,
        draft=_mtp_layer(weights, config, geometry, surroundings, layers[-1], paged=form.is_paged)
        if draft
        else None,
    )


def load_experts(
    folder: Path, *, device: str, dtype: str | None, experts: range, keep_fp8: bool | None
) -> list[ExpertWeights]:
    """Read the routed experts that begin in the slots `experts`, layer by layer, as `load` would."""
    config = read_model_config(folder)
    where = torch.device(device)
    form = form_on(where, paged=None, keep_fp8=keep_fp8)
    weights = Weights(
        Checkpoint(folder),
        device=where,
        dtype=_compute_dtype(config, where, dtype),
        fp8_block=config.fp8_block,
        wanted=lambda name: ".experts." in name,
        published_experts=form.is_paged,
        keep_fp8=form.keeps_fp8,
    )
    sparse = [index for index in range(config.num_layers) if index not in config.dense_layers]
    return [read_experts(weights, f"model.layers.{index}.mlp", config, experts) for index in sparse]


@dataclass(frozen=True, slots=True)
class WeightForm:
    """How weights lie in memory."""

    is_paged: bool
    """For decode steps whose shapes only the bucket decides; experts lie as published."""
    keeps_fp8: bool
    """Block-FP8 weights stay as they are, for kernels that take them, which are paged."""


def form_on(device: torch.device, *, paged: bool | None, keep_fp8: bool | None) -> WeightForm:
    """Return the form on a device; what is absent is decided by it.

    paged     absent: where Triton runs the kernels
    keep_fp8  absent: where FP8 matrices are multiplied, on Hopper (sm_90) and later GPUs
    """
    has_fp8_units = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    keeps_fp8 = has_fp8_units if keep_fp8 is None else keep_fp8
    return WeightForm(keeps_fp8 or (serves(device) if paged is None else paged), keeps_fp8)


def _compute_dtype(config: ModelConfig, device: torch.device, dtype: str | torch.dtype | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype or ("float32" if device.type == "cpu" else config.dtype or "bfloat16")
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is not supported; known are {', '.join(DTYPES)}")
    return DTYPES[name]


def _is_wanted(name: str, layers: int, own_experts: set[int]) -> bool:
    """Whether loading reads a tensor: further layers, copies and other ranks' experts stay unread."""
    layer = re.match(r"model\.layers\.(\d+)\.(embed_tokens|shared_head\.head)?", name)
    if layer and (int(layer[1]) >= layers or layer[2]):
        return False
    expert = re.search(r"\.experts\.(\d+)\.", name)
    return expert is None or int(expert[1]) in own_experts


def _surroundings(weights: Weights, config: ModelConfig, device: torch.device) -> DecoderWeights:
    vocabulary, hidden = config.vocab_size, config.hidden_size
    embedding = weights.tensor("model.embed_tokens.weight", (vocabulary, hidden))
    if config.tie_word_embeddings:
        head = embedding.t().contiguous()
    else:
        head = weights.projection([("lm_head.weight", vocabulary)], hidden)
    return DecoderWeights(
        embedding=embedding,
        norm=weights.tensor("model.norm.weight", (hidden,)),
        head=head,
        rope=rope_table(config.rope, config.max_position_embeddings, device),
    )


def _layer(weights: Weights, index: int, config: ModelConfig, share: ExpertShare) -> Layer:
    prefix, hidden = f"model.layers.{index}", config.hidden_size
    return Layer(
        input_norm=weights.tensor(f"{prefix}.input_layernorm.weight", (hidden,)),
        attention=_attention(weights, f"{prefix}.self_attn", config),
        mlp_norm=weights.tensor(f"{prefix}.post_attention_layernorm.weight", (hidden,)),
        mlp=_mlp(weights, index, config, share),
    )


def _attention(weights: Weights, prefix: str, config: ModelConfig) -> Attention:
    if isinstance(config.attention, MlaConfig):
        return read_mla(weights, prefix, config, config.attention)
    return GqaAttention(read_gqa(weights, prefix, config, config.attention))


def _mtp_layer(
    weights: Weights,
    config: ModelConfig,
    geometry: Geometry,
    surroundings: DecoderWeights,
    layer: Layer,
    *,
    paged: bool,
) -> MtpLayer:
    own = MtpWeights.read(weights, f"model.layers.{config.num_layers}", config.hidden_size)
    return MtpLayer(config, geometry, surroundings, own, layer, is_paged=paged)


def _geometry(config: ModelConfig, layers: int) -> Geometry:
    if isinstance(config.attention, MlaConfig):
        return MlaGeometry(config.attention, layers)
    return GqaGeometry(config.attention, layers)


def _mlp(weights: Weights, index: int, config: ModelConfig, share: ExpertShare) -> Mlp:
    prefix = f"model.layers.{index}.mlp"
    if index in config.dense_layers:
        return DenseMlp.read(weights, prefix, config.hidden_size, config.intermediate_size)
    return MoeMlp.read(weights, prefix, config, share)

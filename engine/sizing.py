"""How large an engine's pool and sequences are, from its configuration and its model. Pure."""

from ..kvtransfer.layout import KvLayout
from .config import WorkerConfig
from .intake import Limits
from .models.config import ModelConfig


class SizingError(ValueError):
    """The configuration leaves no room to serve anything; the message names the setting."""


def pool_blocks(config: WorkerConfig, layout: KvLayout) -> int:
    """Return the blocks of the KV pool, the null block included."""
    if config.num_blocks is not None:
        blocks, setting = config.num_blocks, "num_blocks"
    else:
        blocks, setting = config.kv_cache_bytes // layout.block_bytes, "kv_cache_bytes"
    if blocks < 2:
        raise SizingError(
            f"{setting}: room for {blocks} blocks of {layout.block_bytes} bytes; at least 2 are needed, "
            "one of them the null block"
        )
    return blocks


def engine_limits(config: WorkerConfig, model: ModelConfig, num_blocks: int) -> Limits:
    """Return what the engine can hold; a sequence is no longer than the model allows or the pool holds."""
    for setting in ("block_tokens", "max_num_seqs", "max_batched_tokens", "max_waiting"):
        if getattr(config, setting) < 1:
            raise SizingError(f"{setting}: {getattr(config, setting)} is less than 1")
    wanted = config.max_model_len or model.max_position_embeddings
    if not 2 <= wanted <= model.max_position_embeddings:
        raise SizingError(
            f"max_model_len: {wanted} is not between 2 and the model's {model.max_position_embeddings}"
        )
    return Limits(
        max_model_len=min(wanted, (num_blocks - 1) * config.block_tokens),
        vocab_size=model.vocab_size,
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=config.max_batched_tokens,
        max_waiting=config.max_waiting,
        draft_tokens=config.draft_tokens,
    )

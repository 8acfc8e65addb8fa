"""Models: a checkpoint folder in, logits and KV out.

`load_model` is the door; it imports torch when called, so that a configuration can be read without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...kvtransfer.layout import KvLayout
    from ..batch import DecodeBatch, PrefillBatch
    from ..checkpoint.weights import OnProgress
    from .config import ModelConfig


class Model(Protocol):
    """A decoder with its weights loaded. The KV pool belongs to the caller and is passed to every step."""

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        ...

    def kv_layout(self, block_tokens: int) -> KvLayout:
        """Return what a KV block of this model is made of."""
        ...

    def new_kv_pool(self, num_blocks: int, block_tokens: int) -> Tensor:
        """Return a zeroed pool, one contiguous tensor, block-major: `[num_blocks, num_layers, ...]`."""
        ...

    def prefill(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """Compute and write the KV of prompt chunks; return float32 logits `[R, vocab]` of wanted rows."""
        ...

    def decode(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Advance each sequence by one token; return float32 logits `[B, vocab]`, zero in dead rows."""
        ...


def load_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    on_progress: OnProgress | None = None,
    paged: bool | None = None,
    keep_fp8: bool | None = None,
    fp8_kv: bool = False,
    draft: bool = False,
) -> Model:
    """Load a checkpoint folder in Hugging Face format.

    dtype        compute and KV dtype; absent: the checkpoint's on a GPU, float32 on a CPU
    on_progress  called with (stage, bytes done, bytes in all)
    paged        decode steps have shapes that only the bucket decides; absent: on a GPU
    keep_fp8     block-FP8 weights stay FP8; absent: on GPUs with FP8 matrix units
    fp8_kv       KV is stored as float8_e4m3fn
    draft        load the multi-token prediction layer too, which adds a layer to the KV

    Raises `ConfigError` for an unknown or malformed configuration, `CheckpointError` for unreadable weights.
    """
    # torch stays out of processes that only read configurations
    from .loading import load  # noqa: PLC0415

    return load(
        Path(path),
        device=device,
        dtype=dtype,
        on_progress=on_progress,
        paged=paged,
        keep_fp8=keep_fp8,
        fp8_kv=fp8_kv,
        draft=draft,
    )

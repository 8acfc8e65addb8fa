"""Which steps a worker captures when it starts, and capturing them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..config import GraphsConfig, MoeBackendName, Role, WorkerConfig
from ..models import Model
from ..models.decoder import Decoder
from ..ranks.moe import default_backend
from ..ranks.phased_model import PhasedModel
from .backend import CudaGraphs, GraphBackend
from .model import GraphedModel
from .rehearsal import Rehearsal

logger = logging.getLogger(__name__)

LARGEST_BATCH = 512
"""Larger steps take so long that launching them is no loss, and each graph costs memory and time to start."""
CAPTURABLE = {
    MoeBackendName.ALL_TO_ALL,
    MoeBackendName.DEEPEP_LOW_LATENCY,
    MoeBackendName.DEEPEP_ELASTIC,
}
"""What carries decode rows between ranks in shapes that no value decides, without waiting for the host."""
PROMPT_SIZES = (64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class StepShapes:
    """What shapes decode steps can have."""

    bucket_sizes: list[int]
    """What batches are padded to"""
    max_blocks: int
    """Blocks of the longest sequence"""


def has_graphs(config: WorkerConfig) -> bool:
    """Whether steps are captured."""
    if torch.device(config.device).type != "cuda" and not config.graphs.rehearse:
        return False
    if config.speculative is not None:
        logger.warning("steps that check guesses are not captured and run eagerly")
        return False
    if config.ranks is None:
        return True
    backend = config.ranks.moe_backend or default_backend(config)
    if backend in CAPTURABLE:
        return True
    logger.warning("with %s decode steps are not captured and run eagerly", backend.value)
    return False


def with_graphs(
    config: WorkerConfig,
    model: Model,
    kv: Tensor,
    shapes: StepShapes,
    on_progress: Callable[[str, int, int], None],
) -> GraphedModel | PhasedModel:
    """Capture steps of a model over its pool; `on_progress` hears the stage, sizes done and sizes in all.

    Of ranks only decode steps are captured, by all at the same time. Raises `ValueError` for sizes that no
    step could have.
    """
    backend: GraphBackend = Rehearsal() if config.graphs.rehearse else CudaGraphs(kv.device)
    decode_sizes = batch_sizes(config.graphs, shapes.bucket_sizes)
    on_captured = partial(on_progress, "graphs")
    if isinstance(model, PhasedModel):
        model.capture(
            backend, kv, batch_sizes=decode_sizes, max_blocks=shapes.max_blocks, on_captured=on_captured
        )
        return model
    assert isinstance(model, Decoder), "only whole models are captured"
    graphed = GraphedModel(model, kv)
    graphed.capture(
        backend,
        batch_sizes=decode_sizes,
        max_blocks=shapes.max_blocks,
        prompt_sizes=prompt_sizes(config.graphs, config.role, config.max_batched_tokens),
        on_captured=on_captured,
    )
    return graphed


def batch_sizes(config: GraphsConfig, bucket_sizes: list[int]) -> list[int]:
    """Decode batch sizes to capture, in order."""
    if config.batch_sizes is None:
        return [size for size in bucket_sizes if size <= LARGEST_BATCH]
    strangers = set(config.batch_sizes) - set(bucket_sizes)
    if bucket_sizes and strangers:
        raise ValueError(f"graphs.batch_sizes: {sorted(strangers)} are not among bucket_sizes {bucket_sizes}")
    return sorted(set(config.batch_sizes))


def prompt_sizes(config: GraphsConfig, role: Role, max_batched_tokens: int) -> list[int]:
    """Numbers of prompt tokens to capture, in order."""
    if config.prompt_sizes is None:
        chosen = PROMPT_SIZES if role is Role.PREFILL else ()
        return [size for size in chosen if size <= max_batched_tokens]
    return sorted(set(config.prompt_sizes))

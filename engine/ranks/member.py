"""A rank's share of the model and its step-by-step company, from configuration and group."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..balance.packing import Cluster
from ..config import RanksConfig, WorkerConfig
from ..models import Model
from ..models.architectures import read_model_config
from ..models.config import ModelConfig
from ..models.loading import has_fp8_units, load
from ..runner import StepRunner
from .group import RankGroup
from .moe import make_backend, owned_slots
from .phased_model import PhasedModel
from .rebalance import Rebalancer
from .regroup import Regrouping
from .runner import LockstepRunner


class OnProgress(Protocol):
    """Hears how far loading is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` of this stage."""


def load_share(config: WorkerConfig, group: RankGroup, on_progress: OnProgress) -> PhasedModel:
    """Load everything but the experts of other ranks."""
    folder = Path(config.model)
    shape = read_model_config(folder)
    assert config.ranks is not None
    slots = owned_slots(config.ranks, shape.moe.num_experts)
    backend = make_backend(config, shape, group.collectives)
    model = load(
        folder,
        device=config.device,
        dtype=config.dtype,
        on_progress=on_progress,
        experts=slots,
        backend=backend,
        redundant=config.ranks.redundant_experts,
        fp8_kv=config.fp8_kv,
        paged=config.graphs.rehearse or None,
        keep_fp8=has_fp8_units(config.device) if config.keep_fp8 is None else config.keep_fp8,
    )
    rebalancer = Rebalancer(
        model.moe_layers, group.collectives, cluster_of(config.ranks, shape), config.ranks
    )
    return PhasedModel(model, backend, rebalancer)


def cluster_of(ranks: RanksConfig, shape: ModelConfig) -> Cluster:
    """Return where experts can be placed."""
    return Cluster(
        slots=shape.moe.num_experts + ranks.redundant_experts,
        ranks=ranks.size,
        nodes=ranks.nodes,
        groups=shape.moe.num_groups,
    )


def run_in_step(
    config: WorkerConfig, runner: StepRunner, model: Model, group: RankGroup, bucket_of: Callable[[int], int]
) -> LockstepRunner:
    """Wrap a runner so that it computes together with the group."""
    assert config.ranks is not None
    assert isinstance(model, PhasedModel)
    return LockstepRunner(
        runner,
        model,
        group,
        bucket_of=bucket_of,
        idle_steps=config.ranks.idle_steps,
        overlap=config.ranks.overlap,
        parting=_parting(config, model, group),
    )


def _parting(config: WorkerConfig, model: PhasedModel, group: RankGroup) -> Regrouping | None:
    """On GPUs captured graphs hold the group, so that nobody can leave it."""
    if config.device != "cpu":
        return None
    return Regrouping(config, model.config, group, model, cluster_of)

"""A rank's share of the model and its step-by-step company, from configuration and group."""

from collections.abc import Callable
from pathlib import Path

from ..balance.packing import Cluster
from ..checkpoint.weights import OnProgress
from ..config import RanksConfig, WorkerConfig
from ..models import Model
from ..models.architectures import read_model_config
from ..models.config import ModelConfig
from ..models.loading import load
from ..runner import StepRunner
from .group import RankGroup
from .moe import make_backend, num_slots, owned_slots
from .phased_model import PhasedModel
from .rebalance import Rebalancer
from .regroup import Regrouping
from .runner import LockstepRunner


def load_share(config: WorkerConfig, group: RankGroup, on_progress: OnProgress) -> PhasedModel:
    """Load everything but the experts of other ranks."""
    folder = Path(config.model)
    shape = read_model_config(folder)
    assert config.ranks is not None
    slots = owned_slots(config.ranks, shape.moe.num_experts)
    collectives = group.link.collectives
    backend = make_backend(config, shape, collectives)
    model = load(
        folder,
        device=config.device,
        dtype=config.dtype,
        on_progress=on_progress,
        experts=slots,
        backend=backend,
        redundant=num_slots(config.ranks, shape.moe.num_experts) - shape.moe.num_experts,
        fp8_kv=config.fp8_kv,
        paged=config.graphs.rehearse or None,
        keep_fp8=config.keep_fp8,
    )
    rebalancer = Rebalancer(model.moe_layers, collectives, cluster_of(config.ranks, shape), config.ranks)
    return PhasedModel(model, backend, rebalancer)


def cluster_of(ranks: RanksConfig, shape: ModelConfig) -> Cluster:
    """Return where experts can be placed."""
    return Cluster(
        slots=num_slots(ranks, shape.moe.num_experts),
        ranks=ranks.size,
        nodes=ranks.nodes if ranks.size % ranks.nodes == 0 else 1,
        groups=shape.moe.num_groups,
    )


def run_in_step(
    config: WorkerConfig,
    runner: StepRunner,
    model: Model,
    group: RankGroup,
    bucket_of: Callable[[int], int],
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
        changes=_changes(config, model, group),
    )


def _changes(config: WorkerConfig, model: PhasedModel, group: RankGroup) -> Regrouping | None:
    """Captured graphs hold the group, so that nobody can join or leave it."""
    if config.device != "cpu" or config.graphs.rehearse:
        return None
    return Regrouping(config, group, model, cluster_of, group.on_change)

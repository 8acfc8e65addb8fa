"""Going on without ranks that leave: no request of those who stay is lost, no KV is moved.

1. A rank that was told to leave drains, then wants to leave; it goes on taking its share of every step.
2. Those who stay read the experts that they will own from the checkpoint, beside the steps.
3. Once all have, between the same two steps, all part; those who stay meet under new numbers, put their new
   experts in place, and go on. Experts are placed by load anew from there.

The number of redundant experts grows where it must, so that the slots can be shared out evenly.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from msgspec.structs import replace

from ...kernels.moe.experts import ExpertWeights
from ..balance.packing import Cluster
from ..config import RanksConfig, WorkerConfig
from ..models.config import ModelConfig
from ..models.loading import load_experts
from ..models.mlp import MoeMlp, first_replicas
from .group import RankGroup
from .moe import make_backend, owned_slots
from .phased_model import PhasedModel
from .rebalance import Rebalancer

ClusterOf = Callable[[RanksConfig, ModelConfig], Cluster]
"""Where experts can be placed, of these ranks and this model."""


def successor_of(ranks: RanksConfig, leaving: Sequence[int], num_experts: int) -> RanksConfig | None:
    """Return a rank's place among those who stay; None when it leaves itself."""
    stay = [rank for rank in range(ranks.size) if rank not in leaving]
    if ranks.rank not in stay:
        return None
    redundant = ranks.redundant_experts
    while (num_experts + redundant) % len(stay):
        redundant += 1
    nodes = ranks.nodes if len(stay) % ranks.nodes == 0 else 1
    return replace(
        ranks, rank=stay.index(ranks.rank), size=len(stay), redundant_experts=redundant, nodes=nodes
    )


class Regrouping:
    """One rank's part in it."""

    def __init__(
        self, config: WorkerConfig, shape: ModelConfig, group: RankGroup, model: PhasedModel, place: ClusterOf
    ) -> None:
        self._config = config
        self._shape = shape
        self._group = group
        self._model = model
        self._place = place
        self._reader = ThreadPoolExecutor(1, "experts")
        self._leaving: tuple[int, ...] = ()
        self._reading: Future[list[ExpertWeights]] | None = None

    def prepare(self, leaving: tuple[int, ...]) -> None:
        """Begin to read what this rank will own without those who leave."""
        if leaving == self._leaving:
            return
        self._leaving = leaving
        self._reading = None
        ranks = self._successor()
        if not leaving or ranks is None:
            return
        self._reading = self._reader.submit(
            load_experts,
            Path(self._config.model),
            device=self._config.device,
            dtype=self._config.dtype,
            experts=owned_slots(ranks, self._shape.moe.num_experts),
            keep_fp8=bool(self._config.keep_fp8),  # by itself, a CPU keeps none
        )

    def is_prepared(self) -> bool:
        """Tell whether this rank could part now."""
        if not self._leaving:
            return False
        return self._successor() is None or (self._reading is not None and self._reading.done())

    def part(self) -> bool:
        """Part with all ranks at the same time; tell whether this one goes on with others."""
        ranks = self._successor()
        assert self._config.ranks is not None
        stay = [rank for rank in range(self._config.ranks.size) if rank not in self._leaving]
        self._group.regroup(ranks, stay)
        if ranks is None:
            return False
        assert self._reading is not None
        self._config = replace(self._config, ranks=ranks)
        self._take(self._model.moe_layers, self._reading.result(), ranks)
        self._leaving, self._reading = (), None
        return True

    def _take(self, layers: Sequence[MoeMlp], experts: Sequence[ExpertWeights], ranks: RanksConfig) -> None:
        slots = self._shape.moe.num_experts + ranks.redundant_experts
        for layer, own in zip(layers, experts, strict=True):
            layer.take_experts(own, first_replicas(self._shape.moe, slots, own.owned, own.gate_up.device))
        collectives = self._group.collectives
        self._model.go_on_with(
            make_backend(self._config, self._shape, collectives),
            Rebalancer(layers, collectives, self._place(ranks, self._shape), ranks),
        )

    def _successor(self) -> RanksConfig | None:
        assert self._config.ranks is not None
        return successor_of(self._config.ranks, self._leaving, self._shape.moe.num_experts)

"""Models whose experts are spread over ranks, driven to greedy tokens; processes import it by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from baton.engine.config import RanksConfig
from baton.engine.graphs.rehearsal import Rehearsal
from baton.engine.messages import ExpertBalance
from baton.engine.models import Model
from baton.engine.models.architectures import read_model_config
from baton.engine.models.loading import load
from baton.engine.ranks.member import cluster_of
from baton.engine.ranks.moe import owned_slots
from baton.engine.ranks.phased_model import PhasedModel
from baton.engine.ranks.rebalance import Rebalancer
from baton.kernels.moe.backend import StagedMoe
from baton.kernels.moe.collectives import TorchCollectives
from baton.kernels.moe.phases import PhasedMoe

from .driver import Driver, Sequence
from .moe_cases import owned_by
from .ranked_moe import BACKENDS

DECODE_ROWS = 8
"""What the ranks agree on; each has fewer sequences."""

PAIRINGS = {
    "allgather_reducescatter": ("allgather_contiguous", "allgather_batched"),
    "all_to_all": ("all_to_all_contiguous", "all_to_all_batched"),
    "contiguous alone": ("all_to_all_contiguous", "allgather_contiguous"),
}
"""Backends of prefill and decode."""


class RankDriver(Driver):
    """A driver that says which phase a step is of."""

    def __init__(self, model: Model, moe: PhasedMoe) -> None:
        super().__init__(model)
        self._moe = moe

    def prefill(self, chunks: list[tuple[Sequence, int]]) -> Tensor:
        self._moe.enter_prefill()
        return super().prefill(chunks)

    def decode(self, sequences: list[Sequence], *, bucket: int | None = None) -> Tensor:
        self._moe.enter_decode(DECODE_ROWS)
        return super().decode(sequences, bucket=bucket)


class HalvesDriver(Driver):
    """Lets the transfers of one half of a step run under the computation of the other."""

    def __init__(self, model: Model, moe: PhasedMoe) -> None:
        super().__init__(PhasedModel(model, moe, None))
        self.model.decode_rows = 6
        self.model.prefill_in_halves = self.model.decode_in_halves = True


def several_each(rank: int) -> list[list[int]]:
    """Three to five prompts; the middle of all their tokens lies within one."""
    return [*prompts_of(0), *prompts_of(rank + 3), *prompts_of(rank % 2)]


def prompts_of(rank: int) -> list[list[int]]:
    """One to three prompts of different lengths."""
    generator = torch.Generator().manual_seed(rank)
    lengths = [5 + 7 * rank, 1, 30][: 1 + rank % 3]
    return [torch.randint(3, 256, (length,), generator=generator).tolist() for length in lengths]


def greedy_tokens_of_each(group: dist.ProcessGroup, folders: list[Path], count: int) -> list[dict[str, Any]]:
    """`greedy_tokens` of several models on one group."""
    return [greedy_tokens(group, folder, count) for folder in folders]


def greedy_tokens(group: dist.ProcessGroup, folder: Path, count: int) -> dict[str, Any]:
    """Each pairing's tokens for this rank's prompts, and the bytes of expert weights that were read."""
    rank, size = group.rank(), group.size()
    experts = read_model_config(folder).moe.num_experts
    collectives = TorchCollectives(group, torch.device("cpu"))
    results: dict[str, Any] = {}
    for name, pairing in PAIRINGS.items():
        prefill, decode = (_make(backend, collectives, experts // size) for backend in pairing)
        moe = PhasedMoe(prefill, decode)
        read: list[int] = []
        model = load(
            folder,
            device="cpu",
            dtype=None,
            on_progress=lambda stage, done, total, read=read: read.append(total),
            experts=owned_by(rank, size, experts),
            backend=moe,
        )
        driver = RankDriver(model, moe)
        results[name] = driver.generate([driver.sequence(p) for p in prompts_of(rank)], count)
        results["bytes"] = read[-1]
        driver = HalvesDriver(model, moe)
        results[f"{name} in halves"] = driver.generate(
            [driver.sequence(p) for p in several_each(rank)], count
        )
    results["silent"] = _prefill_without_logits(driver, rank)
    return results


def _make(name: str, collectives: TorchCollectives, share: int) -> StagedMoe[Any]:
    return BACKENDS[name](collectives, share)


def _prefill_without_logits(driver: RankDriver, rank: int) -> tuple[int, ...]:
    """Only rank 0 wants logits: in the last layer the others still have to take part."""
    driver.wants_logits = rank == 0
    prompt = prompts_of(1)[0]
    return tuple(driver.prefill([(driver.sequence(prompt), len(prompt))]).shape)


class BalancedDriver(RankDriver):
    """Moves experts after its steps and keeps what each placement found."""

    def __init__(self, model: Model, moe: PhasedMoe, rebalancer: Rebalancer) -> None:
        super().__init__(model, moe)
        self._rebalancer = rebalancer
        self.found: list[ExpertBalance] = []

    def prefill(self, chunks: list[tuple[Sequence, int]]) -> Tensor:
        logits = super().prefill(chunks)
        self._after_step()
        return logits

    def decode(self, sequences: list[Sequence], *, bucket: int | None = None) -> Tensor:
        logits = super().decode(sequences, bucket=bucket)
        self._after_step()
        return logits

    def _after_step(self) -> None:
        self._rebalancer.after_step()
        balance = self._rebalancer.balance
        if balance is not None and (not self.found or balance is not self.found[-1]):
            self.found.append(balance)


@dataclass(frozen=True)
class Moved:
    """What one rank saw of experts that moved."""

    tokens: list[list[int]]
    tables: list[tuple[int, ...]]
    found: list[ExpertBalance]


def greedy_tokens_while_moving(
    group: dist.ProcessGroup, folder: Path, count: int, redundant: int, interval: int
) -> Moved:
    """Generate from this rank's prompts while experts are placed anew every `interval` steps."""
    shape = read_model_config(folder)
    ranks = RanksConfig(
        rank=group.rank(),
        size=group.size(),
        port=0,
        redundant_experts=redundant,
        balance_interval_steps=interval,
        balance_window_steps=interval,
    )
    collectives = TorchCollectives(group, torch.device("cpu"))
    share = (shape.moe.num_experts + redundant) // group.size()
    moe = PhasedMoe(*(_make(backend, collectives, share) for backend in PAIRINGS["all_to_all"]))
    model = load(
        folder,
        device="cpu",
        dtype=None,
        on_progress=None,
        experts=owned_slots(ranks, shape.moe.num_experts),
        backend=moe,
        redundant=redundant,
    )
    rebalancer = Rebalancer(model.moe_layers, collectives, cluster_of(ranks, shape), ranks)
    driver = BalancedDriver(model, moe, rebalancer)
    tokens = driver.generate([driver.sequence(p) for p in several_each(group.rank())], count)
    tables = [layer.replicas.experts_of_slot for layer in model.moe_layers if layer.replicas is not None]
    return Moved(tokens, tables, driver.found)


def greedy_tokens_of_replayed_steps(
    group: dist.ProcessGroup, folder: Path, pairing: str, count: int
) -> tuple[list[list[int]], list[int]]:
    """Generate with decode steps that every rank captured, and replays padded to what the ranks agreed on."""
    share = read_model_config(folder).moe.num_experts // group.size()
    collectives = TorchCollectives(group, torch.device("cpu"))
    moe = PhasedMoe(*(_make(backend, collectives, share) for backend in PAIRINGS[pairing]))
    owned = owned_by(group.rank(), group.size(), share * group.size())
    loaded = load(folder, device="cpu", dtype=None, on_progress=None, experts=owned, backend=moe, paged=True)
    model = PhasedModel(loaded, moe, None)
    driver = Driver(model)
    model.capture(
        Rehearsal(),
        driver.pool,
        batch_sizes=[4, DECODE_ROWS],
        max_blocks=8,
        on_captured=lambda done, total: None,
    )
    model.decode_rows = DECODE_ROWS
    tokens = driver.generate([driver.sequence(p) for p in prompts_of(group.rank())], count)
    return tokens, model.captured_batch_sizes

"""Models whose experts are spread over ranks, driven to greedy tokens; processes import it by name."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from baton.engine.models import Model
from baton.engine.models.architectures import read_model_config
from baton.engine.models.loading import load
from baton.kernels.moe.backend import StagedMoe
from baton.kernels.moe.collectives import TorchCollectives
from baton.kernels.moe.phases import PhasedMoe

from .driver import Driver, Sequence
from .moe_cases import owned_by
from .ranked_moe import BACKENDS

DECODE_ROWS = 4
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


def prompts_of(rank: int) -> list[list[int]]:
    """One to three prompts of different lengths."""
    generator = torch.Generator().manual_seed(rank)
    lengths = [5 + 7 * rank, 1, 30][: 1 + rank % 3]
    return [torch.randint(3, 256, (length,), generator=generator).tolist() for length in lengths]


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
    results["silent"] = _prefill_without_logits(driver, rank)
    return results


def _make(name: str, collectives: TorchCollectives, share: int) -> StagedMoe[Any]:
    return BACKENDS[name](collectives, share)


def _prefill_without_logits(driver: RankDriver, rank: int) -> tuple[int, ...]:
    """Only rank 0 wants logits: in the last layer the others still have to take part."""
    driver.wants_logits = rank == 0
    prompt = prompts_of(1)[0]
    return tuple(driver.prefill([(driver.sequence(prompt), len(prompt))]).shape)

"""Dispatch and combine of each backend, round by round beside bare collectives of the same bytes.

The experts stage is left out: what arrives is sent back as it came. A round measures one layer both ways, so
that whatever else the machine does hits both.
"""

import statistics
import time
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from ...engine.config import MoeBackendName
from ...kernels.moe.collectives import TorchCollectives
from ...kernels.moe.pair import PrepareFinalize
from .bare import Bare, bare_of
from .pairs import open_pairs
from .shape import Shape

WARM_UPS = 3

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Activations, expert ids, router weights."""
Seconds = tuple[float, float]
"""Of a dispatch and of a combine."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over rounds, seconds on the slowest rank."""

    backend: str
    rows: str
    ranks: int
    tokens: int
    """A rank."""
    dispatch_s: float
    combine_s: float
    bare_dispatch_s: float
    bare_combine_s: float

    @property
    def ratio(self) -> float:
        """What the backend takes for each second of the bare collectives."""
        return (self.dispatch_s + self.combine_s) / (self.bare_dispatch_s + self.bare_combine_s)


class TransferPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured."""

    backends: list[MoeBackendName]
    shape: Shape
    batches: list[int]
    """Tokens of a rank."""
    rounds: int
    device: str


def measure_transfers(group: dist.ProcessGroup, plan: TransferPlan) -> list[Transfer]:
    """Measure every format of each backend at every batch size; all ranks call, all get the result."""
    device = torch.device(plan.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    collectives = TorchCollectives(group, device)
    measured = []
    for backend in plan.backends:
        for pair in open_pairs(backend, plan.shape, max(plan.batches), collectives, group):
            for tokens in plan.batches:
                batch = plan.shape.tokens(tokens, group.rank(), device)
                bare = bare_of(backend, pair.format, plan.shape, batch[1], collectives)
                seconds = _rounds(pair, batch, bare, plan.rounds)
                measured.append(_transfer(backend, pair, tokens, _on_slowest_rank(seconds, group), group))
    return measured


def _rounds(pair: PrepareFinalize[Any], batch: Batch, bare: Bare, rounds: int) -> torch.Tensor:
    """Seconds of dispatch, combine and both bare, `[rounds, 4]`."""
    times: list[float] = []
    for _ in range(WARM_UPS + rounds):
        times += [*_own_s(pair, batch), *_bare_s(bare, batch[0].device)]
    return torch.tensor(times, dtype=torch.float64).view(-1, 4)[WARM_UPS:]


def _transfer(
    backend: MoeBackendName,
    pair: PrepareFinalize[Any],
    tokens: int,
    seconds: list[float],
    group: dist.ProcessGroup,
) -> Transfer:
    dispatch_s, combine_s, bare_dispatch_s, bare_combine_s = seconds
    return Transfer(
        backend=backend.value,
        rows=pair.format.value,
        ranks=group.size(),
        tokens=tokens,
        dispatch_s=dispatch_s,
        combine_s=combine_s,
        bare_dispatch_s=bare_dispatch_s,
        bare_combine_s=bare_combine_s,
    )


def _own_s(pair: PrepareFinalize[Any], batch: Batch) -> Seconds:
    device = batch[0].device
    dist.barrier()
    started = _now(device)
    prepared = pair.prepare(*batch)()
    dispatched = _now(device)
    prepared.finalize(prepared.rows.rows)()
    return dispatched - started, _now(device) - dispatched


def _bare_s(bare: Bare, device: torch.device) -> Seconds:
    dist.barrier()
    started = _now(device)
    bare.dispatch()()
    dispatched = _now(device)
    bare.combine()()
    return dispatched - started, _now(device) - dispatched


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _on_slowest_rank(seconds: torch.Tensor, group: dist.ProcessGroup) -> list[float]:
    """Return each column's median over rounds, the rounds as their slowest rank saw them."""
    dist.all_reduce(seconds, dist.ReduceOp.MAX, group=group)
    return [statistics.median(column) for column in seconds.t().tolist()]

"""Moves experts to where load is even, a layer at a time between steps, while the ranks serve.

1. For a window before the moment, layers count the tokens of each slot, on every rank.
2. The ranks add their counts up, so each computes the same placements.
3. After each of the following steps one layer is moved: weights that are new to a slot travel into a side
   buffer, then all ranks put them into the slots and change the layer's table.

Because this happens between the same two steps on all ranks, no token meets an old table and new weights.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
import torch
from msgspec.structs import astuple
from torch import Tensor

from ...kernels.moe.collectives import Collectives
from ...kernels.moe.experts import ExpertWeights
from ...kernels.moe.replicas import ReplicaTable
from ..balance.packing import Cluster, balancedness, evenness, keep_in_place, place
from ..config import RanksConfig
from ..messages import ExpertBalance

logger = logging.getLogger(__name__)


class ReplicatedLayer(Protocol):
    """A mixture of experts; `models.mlp.MoeMlp` implements it."""

    experts: ExpertWeights
    replicas: ReplicaTable | None


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """One expert's weights into a slot."""

    source: int
    """Slot that holds the expert before."""
    target: int


def moves_between(old: Sequence[int], new: Sequence[int], ranks: int) -> list[Move]:
    """Return what must be copied, from a slot on the same rank where one holds the expert."""
    share = len(old) // ranks
    moves = []
    for target, expert in enumerate(new):
        if old[target] == expert:
            continue
        holders = [slot for slot, held in enumerate(old) if held == expert]
        near = [slot for slot in holders if slot // share == target // share]
        source = near[0] if near else holders[target % len(holders)]
        moves.append(Move(source=source, target=target))
    return moves


class Rebalancer:
    """Counts, plans and moves; every rank calls `after_step` after the same steps."""

    def __init__(
        self,
        layers: Sequence[ReplicatedLayer],
        collectives: Collectives,
        cluster: Cluster,
        config: RanksConfig,
    ) -> None:
        self._layers = [(layer, table) for layer in layers if (table := layer.replicas) is not None]
        self._collectives = collectives
        self._cluster = cluster
        self._interval = config.balance_interval_steps
        self._window = config.balance_window_steps
        self._steps = 0
        self._pending: deque[tuple[ReplicatedLayer, ReplicaTable, list[int]]] = deque()
        self.balance: ExpertBalance | None = None
        """Known from the first placement on."""

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave what is computed meanwhile out of the load."""
        self._count(is_counting=False)
        try:
            yield
        finally:
            self._count(is_counting=True)

    def after_step(self) -> None:
        """Do what is due between two steps."""
        if not self._layers or self._interval is None:
            return
        self._steps += 1
        if self._pending:
            self._move(*self._pending.popleft())
        elif self._steps % self._interval == 0:
            self._plan()
        if self._steps % self._interval == max(self._interval - self._window, 0):
            for _, table in self._layers:
                table.load.zero_()

    def _count(self, *, is_counting: bool) -> None:
        for _, table in self._layers:
            table.is_counting = is_counting

    def _plan(self) -> None:
        counted = torch.stack([table.load for _, table in self._layers])
        self._collectives.add_up(counted)
        measured, planned = [], []
        for (layer, table), row in zip(self._layers, counted.cpu(), strict=True):
            of_slot, old = row.double().numpy(), table.experts_of_slot
            loads = np.asarray(np.bincount(old, of_slot), dtype=np.float64)
            new = keep_in_place(place(loads, self._cluster), old, self._cluster.ranks)
            before, after = (balancedness(loads, each, self._cluster.ranks) for each in (old, new))
            measured.append(evenness(of_slot.reshape(self._cluster.ranks, -1).sum(1)))
            planned.append(max(before, after))
            if after > before:
                self._pending.append((layer, table, new))
        self.balance = ExpertBalance(measured=_mean(measured), planned=_mean(planned))
        logger.info("balancedness of experts over ranks: %.3f, planned %.3f", *astuple(self.balance))

    def _move(self, layer: ReplicatedLayer, table: ReplicaTable, new: list[int]) -> None:
        moves = moves_between(table.experts_of_slot, new, self._cluster.ranks)
        own, share = layer.experts.owned, self._cluster.slots // self._cluster.ranks
        arrivals: list[tuple[int, list[Tensor]]] = []
        sent: list[tuple[int, Tensor]] = []
        received: list[tuple[int, Tensor]] = []
        for move in moves:
            if move.target in own:
                held = _weights_of(layer.experts, move.source if move.source in own else move.target)
                buffers = [part.clone() for part in held]
                arrivals.append((move.target, buffers))
                if move.source not in own:
                    received += [(move.source // share, buffer) for buffer in buffers]
            elif move.source in own:
                sent += [(move.target // share, part) for part in _weights_of(layer.experts, move.source)]
        self._collectives.exchange(sent, received)
        for target, buffers in arrivals:
            for slot, buffer in zip(_weights_of(layer.experts, target), buffers, strict=True):
                slot.copy_(buffer)
        table.assign(new)


def _weights_of(experts: ExpertWeights, slot: int) -> list[Tensor]:
    """The matrices of a slot of this rank, and the factors of FP8 ones, contiguous in memory."""
    index = slot - experts.owned.start
    parts = [experts.gate_up, experts.down, *(experts.scales or ())]
    return [_as_it_lies(part[index]) for part in parts]


def _as_it_lies(matrix: Tensor) -> Tensor:
    dense = matrix if matrix.is_contiguous() else matrix.t()
    return dense.view(torch.uint8) if dense.dtype is torch.float8_e4m3fn else dense


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

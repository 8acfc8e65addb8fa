"""From experts to the slots that hold them: replicas share an expert's tokens by a hash of their number.

The table is changed in place, so that a captured graph and every layer see a new placement at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

KNUTH = 2654435769
"""2^32 divided by the golden ratio: neighbours are spread far apart (Knuth, TAOCP vol. 3, 6.4)."""


class ReplicaTable:
    """Which slots hold each expert of one layer."""

    def __init__(self, experts: int, slots: int, *, offset: int, device: torch.device) -> None:
        """Begin with slot `s` holding expert `s % experts`; `offset` sets ranks apart, token by token."""
        most = slots - experts + 1
        self._slots = torch.zeros(experts, most, dtype=torch.int64, device=device)
        self._counts = torch.ones(experts, dtype=torch.int64, device=device)
        self._first = torch.tensor(offset, device=device)
        """Number of the next token; it runs on, so that few rows a step still reach all replicas."""
        self.load = torch.zeros(slots, dtype=torch.int64, device=device)
        """Tokens by slot since the placement, or since someone set it to zero."""
        self.is_counting = True
        """Off while tokens that nobody asked for are computed."""
        self.experts_of_slot: tuple[int, ...] = ()
        self.assign([slot % experts for slot in range(slots)])

    def assign(self, experts_of_slot: Sequence[int]) -> None:
        """Take a new placement; every expert has a slot."""
        self.experts_of_slot = tuple(experts_of_slot)
        slots_of: list[list[int]] = [[] for _ in range(self._slots.shape[0])]
        for slot, expert in enumerate(experts_of_slot):
            slots_of[expert].append(slot)
        most = self._slots.shape[1]
        rows = [slots + [slots[0]] * (most - len(slots)) for slots in slots_of]
        self._slots.copy_(torch.tensor(rows))
        self._counts.copy_(torch.tensor([len(slots) for slots in slots_of]))
        self.load.zero_()

    def slots_of(self, ids: Tensor) -> Tensor:
        """Choose a slot for each routed pair and count the pair.

        ids      [tokens, top_k] int64, experts; -1 stays -1 and is not counted
        returns  [tokens, top_k] int64, slots
        """
        routed = ids >= 0
        experts = ids.clamp(min=0)
        numbers = self._first + torch.arange(ids.shape[0], device=ids.device)
        self._first.add_(ids.shape[0])
        hashes = ((numbers * KNUTH) & 0xFFFFFFFF) >> 16
        replica = hashes.unsqueeze(1) % self._counts[experts]
        slots = self._slots[experts, replica]
        if self.is_counting:
            self.load.index_add_(0, slots.flatten(), routed.flatten().long())
        return torch.where(routed, slots, -1)

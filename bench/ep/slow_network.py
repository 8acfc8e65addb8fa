"""A network with a delay: rows arrive so long after the last rank has sent, and carrying them takes no core.

Ranks are processes of one machine and all its cores compute, so that no thread may stand in for the network's
cards: it would get its turn late, and take it from what computes. Here rows go to memory that the ranks
share. Who sends copies them to where each receiver wants them and notes when; who receives waits until the
delay after the last rank sent, and reads them there. It looks all the time, as libraries do that speak to
cards: a rank has its core for itself, and a core that sleeps wakes up late, its caches and its turn taken by
others. What a card would do is kept short: no operation of torch, of which each takes 0.1 ms and more where
attention has filled the caches.

Exchanges do not queue behind each other: two in flight at once are late together, not one after the other.
"""

import ctypes
import math
import time
from itertools import count

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from ...kernels.moe.collectives import TorchCollectives
from ...kernels.moe.pair import Pending

SLOTS = 8
"""More than the exchanges between one and the next but two: by then who received its rows has used them"""
ROOM_BYTES = 1 << 20
"""What one rank may send another at once"""


class Medium(msgspec.Struct, frozen=True):
    """What the ranks share; made by the process that starts them, and given to each."""

    sent: Tensor
    """[slots, ranks, 2] int64: number of the exchange last sent, and when, in ns of the machine's clock"""
    rows: Tensor
    """[slots, to, bytes] uint8: side by side what all have sent there"""

    @classmethod
    def of(cls, ranks: int) -> "Medium":
        """Make room for so many ranks."""
        sent = torch.full((SLOTS, ranks, 2), -1, dtype=torch.int64)
        rows = torch.zeros(SLOTS, ranks, ranks * ROOM_BYTES, dtype=torch.uint8)
        return cls(*(tensor.share_memory_() for tensor in (sent, rows)))  # type: ignore[no-untyped-call]


class SlowCollectives(TorchCollectives):
    """The collectives of rows and numbers, through shared memory, late."""

    def __init__(self, group: dist.ProcessGroup, medium: Medium) -> None:
        """Begin without delay."""
        super().__init__(group, torch.device("cpu"))
        self.delay_s = 0.0
        self._sent = medium.sent.numpy()
        self._rows = medium.rows
        self._arrivals: dict[tuple[int, torch.dtype, tuple[int, ...]], Tensor] = {}
        self._numbers = count()

    def all_to_all(
        self, rows: Tensor, sent: list[int] | None = None, received: list[int] | None = None
    ) -> Pending[Tensor]:
        """Send rows, late; equal shares only, as decode steps do."""
        assert sent is None
        assert received is None
        share_bytes = rows.nbytes // self.size
        return self._exchange(rows, share_bytes, share_bytes, rows.shape)

    def all_gather(self, rows: Tensor) -> Pending[Tensor]:
        """Gather rows, late."""
        return self._exchange(rows, rows.nbytes, 0, (self.size * rows.shape[0], *rows.shape[1:]))

    def reduce_scatter(self, rows: Tensor) -> Pending[Tensor]:
        """Add rows up, late."""
        arriving = self.all_to_all(rows)
        return lambda: arriving().view(self.size, -1, *rows.shape[1:]).sum(0)

    def _exchange(
        self, rows: Tensor, share_bytes: int, step_bytes: int, shape: tuple[int, ...]
    ) -> Pending[Tensor]:
        """Send each rank its share, so many bytes after that of the rank before; what comes has `shape`."""
        assert rows.is_contiguous()
        number = next(self._numbers)
        slot, delay_ns = number % SLOTS, round(self.delay_s * 1e9)
        arrival = self._arrival(slot, rows.dtype, shape)
        room, room_bytes = self._rows.data_ptr(), self._rows.stride(1)
        for rank in range(self.size):
            place = room + (slot * self.size + rank) * room_bytes + self.rank * share_bytes
            ctypes.memmove(place, rows.data_ptr() + rank * step_bytes, share_bytes)
        self._sent[slot, self.rank, 1] = time.monotonic_ns()
        self._sent[slot, self.rank, 0] = number  # last: who sees it sees the rest

        def receive() -> Tensor:
            while self._sent[slot, :, 0].min() < number:
                pass
            arrives_ns = int(self._sent[slot, :, 1].max()) + delay_ns
            while time.monotonic_ns() < arrives_ns:
                pass
            return arrival

        return receive

    def _arrival(self, slot: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Where this rank finds what all send it; slices that do not fit are an error."""
        key = slot, dtype, shape
        if key not in self._arrivals:
            size_bytes = math.prod(shape) * dtype.itemsize
            self._arrivals[key] = self._rows[slot, self.rank, :size_bytes].view(dtype).view(shape)
        return self._arrivals[key]

"""A network with a delay: rows arrive so long after the last rank has sent, and carrying them takes no core.

Ranks are processes of one machine and all its cores compute, so that no thread may stand in for the network's
cards: it would get its turn late, and take it from what computes. Here rows lie in memory that the ranks
share. Who sends copies them in and notes when; who receives waits until the delay after the last rank sent,
and copies them out.

Exchanges do not queue behind each other: two in flight at once are late together, not one after the other.
"""

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
"""More than the exchanges that a rank may have sent and not received yet: theirs must not be overwritten"""
ROOM_BYTES = 1 << 20
"""What one rank may send another at once"""
LOOK_S = 50e-6
"""Between two looks whether all have sent"""


class Medium(msgspec.Struct, frozen=True):
    """What the ranks share; made by the process that starts them, and given to each."""

    sent: Tensor
    """[slots, ranks, 2] int64: number of the exchange last sent, and when, in ns of the machine's clock"""
    rows: Tensor
    """[slots, from, to, bytes] uint8"""

    @classmethod
    def of(cls, ranks: int) -> "Medium":
        """Make room for so many ranks."""
        sent = torch.full((SLOTS, ranks, 2), -1, dtype=torch.int64)
        rows = torch.zeros(SLOTS, ranks, ranks, ROOM_BYTES, dtype=torch.uint8)
        return cls(*(tensor.share_memory_() for tensor in (sent, rows)))  # type: ignore[no-untyped-call]


class SlowCollectives(TorchCollectives):
    """The collectives of rows and numbers, through shared memory, late."""

    def __init__(self, group: dist.ProcessGroup, medium: Medium) -> None:
        """Begin without delay."""
        super().__init__(group, torch.device("cpu"))
        self.delay_s = 0.0
        self._sent = medium.sent.numpy()
        self._rows = medium.rows
        self._numbers = count()

    def all_to_all(
        self, rows: Tensor, sent: list[int] | None = None, received: list[int] | None = None
    ) -> Pending[Tensor]:
        """Send rows, late; equal shares only, as decode steps do."""
        assert sent is None
        assert received is None
        arriving = self._exchange(rows.view(self.size, -1, *rows.shape[1:]))
        return lambda: arriving().reshape(rows.shape)

    def all_gather(self, rows: Tensor) -> Pending[Tensor]:
        """Gather rows, late."""
        arriving = self._exchange(rows.expand(self.size, *rows.shape))
        return lambda: arriving().reshape(-1, *rows.shape[1:])

    def reduce_scatter(self, rows: Tensor) -> Pending[Tensor]:
        """Add rows up, late."""
        arriving = self._exchange(rows.view(self.size, -1, *rows.shape[1:]))
        return lambda: arriving().sum(0)

    def _exchange(self, shares: Tensor) -> Pending[Tensor]:
        """Send each rank its share, `[ranks, rows, ...]`; what comes, of the like, is a view."""
        number = next(self._numbers)
        slot, delay_ns = number % SLOTS, round(self.delay_s * 1e9)
        _room(self._rows[slot, self.rank], shares).copy_(shares)
        self._sent[slot, self.rank, 1] = time.monotonic_ns()
        self._sent[slot, self.rank, 0] = number  # last: who sees it sees the rest

        def receive() -> Tensor:
            while self._sent[slot, :, 0].min() < number:
                time.sleep(LOOK_S)
            left_ns = int(self._sent[slot, :, 1].max()) + delay_ns - time.monotonic_ns()
            if left_ns > 0:
                time.sleep(left_ns / 1e9)
            return _room(self._rows[slot, :, self.rank], shares)

        return receive


def _room(room: Tensor, shares: Tensor) -> Tensor:
    """The first of each rank's bytes, `[ranks, bytes]`, as shares."""
    share_bytes = math.prod(shares.shape[1:]) * shares.itemsize
    return room[:, :share_bytes].view(shares.dtype).view(shares.shape)

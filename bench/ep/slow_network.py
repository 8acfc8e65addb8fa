"""A network with a delay: what is sent arrives that much later than it would have.

Transfers do not queue behind each other: two in flight at once are late together, not one after the other.

Threads stand in for the network's cards, on the cores that compute. Where this process may say so, they go
before what computes, with delay and without: else a transfer would begin when the scheduler next looks.
"""

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor

from ...kernels.moe.collectives import TorchCollectives
from ...kernels.moe.pair import Pending

IN_FLIGHT = 4
TRANSFER_PRIORITY = 2
"""Above that of ranks which are themselves started with the lowest real-time priority"""


class SlowCollectives(TorchCollectives):
    """Collectives of torch.distributed, late."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        """Begin without delay. The calling thread is the one that computes."""
        super().__init__(group, device)
        self.delay_s = 0.0
        self._watchers = ThreadPoolExecutor(IN_FLIGHT, "transfer", initializer=_go_first)
        for thread in os.listdir("/proc/self/task"):
            if int(thread) != threading.get_native_id():
                _go_first(int(thread))

    def all_to_all(
        self, rows: Tensor, sent: list[int] | None = None, received: list[int] | None = None
    ) -> Pending[Tensor]:
        """Send rows, late."""
        return self._late(super().all_to_all(rows, sent, received))

    def all_gather(self, rows: Tensor) -> Pending[Tensor]:
        """Gather rows, late."""
        return self._late(super().all_gather(rows))

    def reduce_scatter(self, rows: Tensor) -> Pending[Tensor]:
        """Add rows up, late."""
        return self._late(super().reduce_scatter(rows))

    def _late(self, pending: Pending[Tensor]) -> Pending[Tensor]:
        if not self.delay_s:
            return pending
        arriving = self._watchers.submit(_timed, pending)

        def wait() -> Tensor:
            result, arrived = arriving.result()
            time.sleep(max(arrived + self.delay_s - time.perf_counter(), 0.0))
            return result

        return wait


def _go_first(thread: int = 0) -> None:
    """Let a thread, by default the calling one, run as soon as it can; one that has ended need not."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(TRANSFER_PRIORITY))


def _timed(pending: Pending[Tensor]) -> tuple[Tensor, float]:
    """Wait for a transfer; return what came, and when."""
    return pending(), time.perf_counter()

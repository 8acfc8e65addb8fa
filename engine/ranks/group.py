"""One rank's membership of its group: the rendezvous, the all-reduce before each step, and the end.

Every rank is started with the same address; rank 0 keeps a store there while the group lives. On a CPU all
traffic is gloo's; on GPUs activations go over NCCL, and agreements stay on the CPU.
"""

import datetime
import logging
import uuid
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from ...kernels.moe.collectives import TorchCollectives
from ..config import RanksConfig
from .errors import GroupFailedError
from .interface import bind_gloo
from .watch import Watch, accept_peers, call_rank_0, listen

WATCH_PORT = "baton/watch_port"
IDENTITY = "baton/identity"
NAMING_S = 2.0
"""How long the news of which rank has ended may lag behind the error of a transfer."""

logger = logging.getLogger(__name__)


class RankGroup:
    """The joined group."""

    def __init__(self, config: RanksConfig, device: torch.device, on_change: Callable[[], None]) -> None:
        """Join; returns when all ranks have. Raises `GroupFailedError` after `timeout_s`."""
        self.rank, self.size = config.rank, config.size
        timeout = datetime.timedelta(seconds=config.timeout_s)
        try:
            bind_gloo(config.host, config.port)
            self._store = TCPStore(
                config.host, config.port, config.size, is_master=config.rank == 0, timeout=timeout
            )
            dist.init_process_group(
                "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
                store=PrefixStore("baton/group", self._store),
                rank=config.rank,
                world_size=config.size,
                timeout=timeout,
            )
            if config.rank == 0:
                self._store.set(IDENTITY, uuid.uuid4().hex)
            self.identity = self._store.get(IDENTITY).decode()
            """Drawn by rank 0 for this run of the group, the same on all of its ranks."""
            self.watch = self._open_watch(config, on_change)
        except (RuntimeError, OSError) as error:
            where = f"{config.host}:{config.port}"
            raise GroupFailedError(
                f"rank {config.rank} of {config.size} could not join its group at {where}: {error}"
            ) from error
        assert dist.group.WORLD is not None
        self.collectives = TorchCollectives(dist.group.WORLD, device)

    def largest(self, numbers: list[int]) -> list[int]:
        """Return the element-wise maximum over all ranks. Raises `GroupFailedError`."""
        tensor = torch.tensor(numbers)
        try:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        except RuntimeError as error:
            raise self.failure(error) from error
        return [int(number) for number in tensor.tolist()]

    def check(self) -> None:
        """Raise `GroupFailedError` when a rank has ended."""
        if self.watch.lost_rank is not None:
            raise self.failure(None)

    def failure(self, error: Exception | None) -> GroupFailedError:
        """Return the error that names the rank that has ended, or else what went wrong here."""
        lost = self.watch.wait_for_loss(NAMING_S)
        if lost is not None:
            return GroupFailedError(f"rank {lost} of {self.size} has ended, and its group with it")
        return GroupFailedError(f"rank {self.rank} of {self.size} failed in a step of its group: {error}")

    def close(self) -> None:
        """Leave; whoever has not left yet fails."""
        self.watch.close()
        dist.destroy_process_group()

    def _open_watch(self, config: RanksConfig, on_change: Callable[[], None]) -> Watch:
        if config.rank == 0:
            with listen(config.host) as listener:
                self._store.set(WATCH_PORT, str(listener.getsockname()[1]))
                peers = accept_peers(listener, config.size, config.timeout_s)
        else:
            port = int(self._store.get(WATCH_PORT))
            peers = {0: call_rank_0(config.host, port, config.rank, config.timeout_s)}
        return Watch(config.rank, peers, on_change)

"""One rank's membership of its group: the rendezvous, the all-reduce before each step, and the end.

Every rank is started with the same address; rank 0 keeps a store there while the group lives. On a CPU all
traffic is gloo's; on GPUs activations go over NCCL, and agreements stay on the CPU.
"""

import datetime
import logging
import uuid
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from msgspec.structs import replace
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from ...kernels.moe.collectives import TorchCollectives
from ..config import RanksConfig
from .errors import GroupFailedError
from .interface import bind_gloo, own_address
from .watch import Watch, accept_peers, call_rank_0, listen

WATCH_PORT = "baton/watch_port"
IDENTITY = "baton/identity"
NEXT = "baton/next"
"""Where those who stay meet when others leave."""
NAMING_S = 2.0
"""How long the news of which rank has ended may lag behind the error of a transfer."""

logger = logging.getLogger(__name__)


class RankGroup:
    """The joined group."""

    def __init__(self, config: RanksConfig, device: torch.device, on_change: Callable[[], None]) -> None:
        """Join; returns when all ranks have. Raises `GroupFailedError` after `timeout_s`."""
        self._device = device
        self._on_change = on_change
        self._has_parted = False
        try:
            bind_gloo(config.host, config.port)
            store = TCPStore(
                config.host,
                config.port,
                config.size,
                is_master=config.rank == 0,
                timeout=datetime.timedelta(seconds=config.timeout_s),
            )
        except (RuntimeError, OSError) as error:
            raise _no_meeting(config, error) from error
        self._join(config, store)

    def _join(self, config: RanksConfig, store: TCPStore) -> None:
        self.rank, self.size = config.rank, config.size
        self._config = config
        self._store = store
        try:
            dist.init_process_group(
                "gloo" if self._device.type == "cpu" else "cpu:gloo,cuda:nccl",
                store=PrefixStore("baton/group", self._store),
                rank=config.rank,
                world_size=config.size,
                timeout=datetime.timedelta(seconds=config.timeout_s),
            )
            if config.rank == 0:
                self._store.set(IDENTITY, uuid.uuid4().hex)
            self.identity = self._store.get(IDENTITY).decode()
            """Drawn by rank 0 for this run of the group, the same on all of its ranks."""
            self.watch = self._open_watch(config, self._on_change)
        except (RuntimeError, OSError) as error:
            raise _no_meeting(config, error) from error
        assert dist.group.WORLD is not None
        self.collectives = TorchCollectives(dist.group.WORLD, self._device)

    def largest(self, numbers: list[int]) -> list[int]:
        """Return the element-wise maximum over all ranks. Raises `GroupFailedError`."""
        tensor = torch.tensor(numbers)
        try:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        except RuntimeError as error:
            raise self.failure(error) from error
        return [int(number) for number in tensor.tolist()]

    def regroup(self, config: RanksConfig | None, stay: Sequence[int]) -> None:
        """Part with all ranks at the same time; meet those who stay again, in the place `config` gives.

        config  None for a rank that leaves; its address is not looked at
        stay    today's numbers of those who stay
        """
        try:
            store = None if config is None else self._next_store(config, len(stay))
            dist.barrier()  # from here on nobody needs the old store, which may be a leaving rank's
        except (RuntimeError, OSError) as error:
            raise self.failure(error) from error
        self.close()
        if config is None or store is None:
            self._has_parted = True
        else:
            self._join(replace(config, host=store.host, port=store.port), store)

    def _next_store(self, config: RanksConfig, size: int) -> TCPStore:
        is_first = config.rank == 0
        if is_first:
            host, port = own_address(self._config.host, self._config.port), 0
        else:
            host, _, digits = self._store.get(NEXT).decode().partition(" ")
            port = int(digits)
        store = TCPStore(
            host,
            port,
            size,
            is_master=is_first,
            timeout=datetime.timedelta(seconds=config.timeout_s),
            wait_for_workers=False,
        )
        if is_first:
            self._store.set(NEXT, f"{host} {store.port}")
        return store

    def check(self) -> None:
        """Raise `GroupFailedError` when a rank has ended."""
        if not self._has_parted and self.watch.lost_rank is not None:
            raise self.failure(None)

    def failure(self, error: Exception | None) -> GroupFailedError:
        """Return the error that names the rank that has ended, or else what went wrong here."""
        lost = self.watch.wait_for_loss(NAMING_S)
        if lost is not None:
            return GroupFailedError(f"rank {lost} of {self.size} has ended, and its group with it")
        return GroupFailedError(f"rank {self.rank} of {self.size} failed in a step of its group: {error}")

    def close(self) -> None:
        """Leave; whoever has not left yet fails."""
        if self._has_parted:
            return
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


def _no_meeting(config: RanksConfig, error: Exception) -> GroupFailedError:
    where = f"{config.host}:{config.port}"
    return GroupFailedError(
        f"rank {config.rank} of {config.size} could not join its group at {where}: {error}"
    )

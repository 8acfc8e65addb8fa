"""One meeting of ranks: what they reach each other by, from the rendezvous to the day they part.

Rank 0 keeps a store. On a CPU all traffic is gloo's, and a second link can be made beside the one in use; on
GPUs activations go over NCCL, agreements stay on the CPU, and a process has one link in its life.
"""

import datetime
import uuid
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]

from ...kernels.moe.collectives import TorchCollectives
from ..config import RanksConfig
from .errors import GroupFailedError
from .watch import Watch, accept_peers, call_rank_0, listen

WATCH_PORT = "baton/watch_port"
IDENTITY = "baton/identity"
PROOF_S = 5.0
"""How long the first message of a new link may take; requests wait for it."""

BackendType = dist.ProcessGroup.BackendType


class Link:
    """Ranks that have met."""

    def __init__(
        self,
        config: RanksConfig,
        device: torch.device,
        on_change: Callable[[], None],
        *,
        store: TCPStore | None = None,
        identity: str | None = None,
    ) -> None:
        """Meet; returns when all ranks have come. Raises `GroupFailedError` after `timeout_s`.

        store     absent: the one at the configured address, which rank 0 opens
        identity  what rank 0 says that the group is; absent: a new one
        """
        self.rank, self.size = config.rank, config.size
        self.host = config.host
        self._is_gloo = device.type == "cpu"
        try:
            self.store = store or open_store(config)
            self.port = int(self.store.port)
            self._group = self._open_group(config)
            if config.rank == 0:
                self.store.set(IDENTITY, identity or uuid.uuid4().hex)
            self.identity = self.store.get(IDENTITY).decode()
            """Drawn by the first rank 0 of the group, the same on all of its ranks."""
            self.watch = self._open_watch(config, on_change)
        except (RuntimeError, OSError) as error:
            raise _no_meeting(config, error) from error
        self.collectives = TorchCollectives(self._group, device)

    def largest(self, numbers: list[int]) -> list[int]:
        """Return the element-wise maximum over all ranks. Raises `RuntimeError` of torch."""
        tensor = torch.tensor(numbers)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return [int(number) for number in tensor.tolist()]

    def prove(self, timeout_s: float) -> bool:
        """Send the first message round; tell whether it came. All ranks do so at the same time.

        timeout_s  of messages from then on
        """
        assert self._is_gloo
        self._group.set_timeout(datetime.timedelta(seconds=PROOF_S))
        try:
            self.largest([0])
        except RuntimeError:
            return False
        self._group.set_timeout(datetime.timedelta(seconds=timeout_s))
        return True

    def close(self) -> None:
        """Leave; whoever has not left yet fails."""
        self.watch.close()
        if self._is_gloo:
            self._group.shutdown()
        else:
            dist.destroy_process_group()

    def _open_group(self, config: RanksConfig) -> dist.ProcessGroup:
        store = PrefixStore("baton/group", self.store)
        timeout = datetime.timedelta(seconds=config.timeout_s)
        if self._is_gloo:
            return _gloo_group(store, config, timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl", store=store, rank=config.rank, world_size=config.size, timeout=timeout
        )
        assert dist.group.WORLD is not None
        return dist.group.WORLD

    def _open_watch(self, config: RanksConfig, on_change: Callable[[], None]) -> Watch:
        if config.rank == 0:
            with listen(config.host) as listener:
                self.store.set(WATCH_PORT, str(listener.getsockname()[1]))
                peers = accept_peers(listener, config.size, config.timeout_s)
        else:
            port = int(self.store.get(WATCH_PORT))
            peers = {0: call_rank_0(config.host, port, config.rank, config.timeout_s)}
        return Watch(config.rank, peers, on_change)


def open_store(config: RanksConfig) -> TCPStore:
    """Open the store, or reach the one that rank 0 opens; waits for nobody else."""
    return TCPStore(
        config.host,
        config.port,
        config.size,
        is_master=config.rank == 0,
        timeout=datetime.timedelta(seconds=config.timeout_s),
        wait_for_workers=False,
    )


def _gloo_group(store: PrefixStore, config: RanksConfig, timeout: datetime.timedelta) -> dist.ProcessGroup:
    """Return a group that torch keeps no list of: `init_process_group` would allow one at a time."""
    group = dist.ProcessGroup(store, config.rank, config.size)
    gloo = ProcessGroupGloo(store, config.rank, config.size, timeout)
    group._set_default_backend(BackendType.GLOO)  # noqa: SLF001  torch has no public way
    group._register_backend(torch.device("cpu"), BackendType.GLOO, gloo)  # noqa: SLF001
    return group


def _no_meeting(config: RanksConfig, error: Exception) -> GroupFailedError:
    where = f"{config.host}:{config.port}"
    return GroupFailedError(
        f"rank {config.rank} of {config.size} could not join its group at {where}: {error}"
    )

"""The four collectives that expert parallelism needs, asynchronous, over a torch.distributed group.

The group may be gloo (CPU) or NCCL (GPU). Pairs talk to this interface so that tests can put a slow network
or an in-process one under them.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from .pair import Pending

try:  # the names of torch 2.13 and later; the older ones are deprecated there
    from torch.distributed import all_gather_single, reduce_scatter_single
except ImportError:
    from torch.distributed import all_gather_into_tensor as all_gather_single
    from torch.distributed import reduce_scatter_tensor as reduce_scatter_single


class Collectives(Protocol):
    """One rank's access to its group. All ranks issue the same calls in the same order."""

    @property
    def rank(self) -> int:
        """This rank."""
        ...

    @property
    def size(self) -> int:
        """Ranks in the group."""
        ...

    def all_to_all(
        self, rows: Tensor, sent: list[int] | None = None, received: list[int] | None = None
    ) -> Pending[Tensor]:
        """Send rank `r` its run of rows: `sent[r]` of them, equal shares without; get `received[r]` each."""
        ...

    def all_gather(self, rows: Tensor) -> Pending[Tensor]:
        """Concatenate the rows of all ranks; all give the same number."""
        ...

    def reduce_scatter(self, rows: Tensor) -> Pending[Tensor]:
        """Add the rows of all ranks up and return this rank's equal share."""
        ...

    def gather_int(self, value: int) -> list[int]:
        """Return every rank's number; waits."""
        ...

    def exchange_ints(self, values: list[int]) -> list[int]:
        """Send rank `r` the number `values[r]`; return what each sent; waits."""
        ...

    def add_up(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over all ranks; waits."""
        ...

    def exchange(self, sent: list[tuple[int, Tensor]], received: list[tuple[int, Tensor]]) -> None:
        """Send tensors to ranks and receive others into place, in the order given for each pair; waits."""
        ...


class TorchCollectives:
    """Collectives of torch.distributed."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        """Take a group whose backend serves tensors on `device`."""
        self._group = group
        self._device = device
        self.rank = group.rank()
        self.size = group.size()

    def all_to_all(
        self, rows: Tensor, sent: list[int] | None = None, received: list[int] | None = None
    ) -> Pending[Tensor]:
        """Send rank `r` its run of rows."""
        count = rows.shape[0] if received is None else sum(received)
        out = rows.new_empty(count, *rows.shape[1:])
        return _result(
            out,
            dist.all_to_all_single(out, rows.contiguous(), received, sent, group=self._group, async_op=True),
        )

    def all_gather(self, rows: Tensor) -> Pending[Tensor]:
        """Concatenate the rows of all ranks."""
        if self._device.type == "cpu":  # gloo's own takes up to half as long again on four ranks
            return self.all_to_all(rows.expand(self.size, *rows.shape).flatten(0, 1))
        out = rows.new_empty(rows.shape[0] * self.size, *rows.shape[1:])
        return _result(out, all_gather_single(out, rows.contiguous(), group=self._group, async_op=True))

    def reduce_scatter(self, rows: Tensor) -> Pending[Tensor]:
        """Add up and share out."""
        out = rows.new_empty(rows.shape[0] // self.size, *rows.shape[1:])
        return _result(out, reduce_scatter_single(out, rows.contiguous(), group=self._group, async_op=True))

    def gather_int(self, value: int) -> list[int]:
        """Return every rank's number."""
        return [int(each) for each in self.all_gather(torch.tensor([value], device=self._device))().tolist()]

    def exchange_ints(self, values: list[int]) -> list[int]:
        """Return what each rank sent to this one."""
        return [int(each) for each in self.all_to_all(torch.tensor(values, device=self._device))().tolist()]

    def add_up(self, tensor: Tensor) -> None:
        """Sum over all ranks."""
        dist.all_reduce(tensor, group=self._group)

    def exchange(self, sent: list[tuple[int, Tensor]], received: list[tuple[int, Tensor]]) -> None:
        """Send and receive point to point."""
        if self._device.type == "cpu":  # a gloo group need not be one that torch keeps a list of
            works = [dist.isend(tensor, group=self._group, group_dst=rank) for rank, tensor in sent]
            works += [dist.irecv(tensor, group=self._group, group_src=rank) for rank, tensor in received]
            for work in works:
                assert work is not None
                work.wait()
            return
        operations = [dist.P2POp(dist.isend, tensor, rank, self._group) for rank, tensor in sent]
        operations += [dist.P2POp(dist.irecv, tensor, rank, self._group) for rank, tensor in received]
        for work in dist.batch_isend_irecv(operations) if operations else []:
            work.wait()


def _result(out: Tensor, work: dist.Work) -> Pending[Tensor]:
    def wait() -> Tensor:
        work.wait()
        return out

    return wait

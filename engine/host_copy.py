"""Brings small results of a step from the device to the host without waiting for what was queued after them.

On a CPU the tensor is the result. On a GPU the copy is queued right behind what computes the tensor, into
pinned memory, with an event behind it: whoever reads waits for that event, not for the steps that follow.
"""

import torch
from torch import Tensor


class HostCopy:
    """One tensor on its way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def arrived(self) -> Tensor:
        """Wait for the copy; return it."""
        if self._done is not None:
            self._done.synchronize()
        return self._host

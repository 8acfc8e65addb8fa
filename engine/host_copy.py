"""Brings small tensors to the device and back without waiting for the steps that are queued there.

On a CPU the tensor is the result. On a GPU the copy to the host is queued right behind what computes the
tensor, into pinned memory, with an event behind it: whoever reads waits for that event, not for the steps
that follow. The other way too the memory is pinned, or the host would wait for all that was queued before.
"""

import torch
from torch import Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor's content on `device`; `host` may not be written again where that is a CPU."""
    if device.type == "cpu":
        return host
    # torch lends a pinned buffer again only when the copies out of it are done
    return host.pin_memory().to(device, non_blocking=True)


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

"""Memory for the frames of the batched format on a CPU, kept from layer to layer.

A frame is large and mostly untouched; asking the system for new pages costs more than filling it. There are
two, taken in turn: as many batches as overlapping halves of a step have on their way.
"""

import torch
from torch import Tensor


class Frames:
    """Hands out frames of any size, each valid until the next but one is taken."""

    def __init__(self) -> None:
        self._buffers: list[Tensor | None] = [None, None]

    def take(self, rows: int, like: Tensor) -> Tensor:
        """Return `[rows, like.shape[1]]` of `like`'s number format; what it holds is garbage."""
        width = like.shape[1]
        buffer = self._buffers.pop(0)
        if buffer is None or buffer.numel() < rows * width or buffer.dtype is not like.dtype:
            buffer = torch.empty(rows * width, dtype=like.dtype)
        self._buffers.append(buffer)
        return buffer[: rows * width].view(rows, width)

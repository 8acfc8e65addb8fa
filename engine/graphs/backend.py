"""What captures work so that it can be replayed.

What is captured reads and writes tensors that stay where they are, and returns nothing. While it is captured
it may not read a value back to the host, nor let a value decide a shape; what the host decides then, it
decides once for all replays.
"""

from collections.abc import Callable
from typing import Protocol

import torch


class Graph(Protocol):
    """Captured work."""

    def replay(self) -> None:
        """Do the work again, on what the same tensors hold now."""


class GraphBackend(Protocol):
    """Captures work of one device; all graphs share one pool of memory for what they compute in between."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Run the work at least once, then hold it. Largest first, so that smaller ones fit its memory."""
        ...


class CudaGraphs:
    """`torch.cuda.CUDAGraph`. Warming up compiles kernels and makes workspaces, which capture could not."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], None]) -> Graph:
        """Warm up and capture on a stream of its own, as capture has to be."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.synchronize(self._stream.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        return graph

"""The device that is measured: what it is called, what runs on it, and how long something takes there.

Without a GPU everything runs through Triton's interpreter (a dry run): every path is taken, no figure means
anything.
"""

import platform
import statistics
from collections.abc import Callable

import torch
import triton

WARM_UPS, REPEATS = 3, 30
ROUNDS, GRAPH_REPLAYS = 5, 20
NEVER_US = 1.0
"""Stands in dry runs where a time would."""
FLUSH_BYTES = 256 << 20
"""Written between repeats so that nothing is found in the L2 cache, which is 50 MiB on Hopper."""


class Machine:
    """A GPU, or the interpreter in its place."""

    def __init__(self, *, dry: bool) -> None:
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self._flush = torch.empty(0 if dry else FLUSH_BYTES, dtype=torch.uint8, device=self.device)

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return "interpreter" if self.dry else torch.cuda.get_device_name()

    def versions(self) -> dict[str, str]:
        """Of everything that has a say in the figures."""
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": str(torch.version.cuda),
        }

    def kernel_us(self, run: Callable[[], object]) -> float:
        """Median time of one call from a cold cache, launched without Python; a dry run makes none."""
        if self.dry:
            return NEVER_US
        graph = _captured(run)
        events = [_pair() for _ in range(REPEATS)]
        for start, end in events:
            self._flush.zero_()
            start.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return 1e3 * statistics.median(float(start.elapsed_time(end)) for start, end in events)

    def graph_us(self, run: Callable[[], object]) -> float:
        """Time of one call captured in a CUDA graph, averaged over replays in a row, median of several."""
        if self.dry:
            run()
            return NEVER_US
        graph = _captured(run)
        times = []
        for _ in range(ROUNDS):
            start, end = _pair()
            start.record()
            for _ in range(GRAPH_REPLAYS):
                graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(float(start.elapsed_time(end)) / GRAPH_REPLAYS)
        return 1e3 * statistics.median(times)


def _captured(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Run often enough to have everything compiled, then capture."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    return graph


def _pair() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    def event() -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    return event(), event()

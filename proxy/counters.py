"""What the hot path counts: plain integers and lists, read by `metrics.py` when somebody asks. No I/O."""

from bisect import bisect_left
from dataclasses import dataclass, field

SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
"""Upper bounds of the buckets, in seconds."""


class Histogram:
    """Counts by bucket, and their sum."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        """One more than there are bounds: the last has none."""
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total_s += seconds


@dataclass(slots=True)
class Counters:
    """Everything since the start."""

    requests_in_flight: int = 0
    bytes_relayed: int = 0
    bytes_received: int = 0
    invalid: int = 0
    """Requests refused before any worker was chosen."""
    stale_resends: int = 0
    """Legs sent again because their kept-alive connection had ended."""
    prefill_s: Histogram = field(default_factory=Histogram)
    """From sending a prefill leg to its whole answer."""
    first_byte_s: Histogram = field(default_factory=Histogram)
    """From sending a decode leg to the first bytes of its answer."""
    time_to_first_byte_s: Histogram = field(default_factory=Histogram)
    """From the whole request to the first bytes of its answer."""
    request_s: Histogram = field(default_factory=Histogram)
    """From the whole request to the end of its answer."""

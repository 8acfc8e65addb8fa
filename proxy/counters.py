"""What the hot path counts: plain integers and lists, read by `metrics.py` when somebody asks. No I/O."""

from typing import Final

SECONDS: Final[tuple[float, ...]] = (
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
BOUNDS: Final = len(SECONDS)


class Histogram:
    """Counts by bucket, and their sum."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (BOUNDS + 1)
        """One more than there are bounds: the last has none."""
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        # Most are short, and compiled a few comparisons cost a third of a call that bisects.
        place = 0
        while place < BOUNDS and SECONDS[place] < seconds:
            place += 1
        self.counts[place] += 1
        self.total_s += seconds


class Counters:
    """Everything since the start."""

    __slots__ = (
        "bytes_received", "bytes_relayed", "first_byte_s", "invalid", "prefill_s", "request_s",
        "requests_in_flight", "stale_resends", "time_to_first_byte_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests_in_flight = 0
        self.bytes_relayed = 0
        self.bytes_received = 0
        self.invalid = 0
        """Requests refused before any worker was chosen."""
        self.stale_resends = 0
        """Legs sent again because their kept-alive connection had ended."""
        self.prefill_s = Histogram()
        """From sending a prefill leg to its whole answer."""
        self.first_byte_s = Histogram()
        """From sending a decode leg to the first bytes of its answer."""
        self.time_to_first_byte_s = Histogram()
        """From the whole request to the first bytes of its answer."""
        self.request_s = Histogram()
        """From the whole request to the end of its answer."""

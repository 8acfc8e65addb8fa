"""Counters of the KV transfer since the process started, for the worker's `/metrics`.

The vLLM names they stand for: `nixl_xfer_time_seconds` (sum `transfer_s`, count `transfers`),
`nixl_post_time_seconds` (sum `post_s`), `nixl_bytes_transferred` (sum `kv_bytes`), `nixl_num_descriptors`
(sum `blocks`), `nixl_num_failed_transfers_total`, `nixl_num_failed_notifications_total`
(`settlements_lost`), `nixl_num_kv_expired_reqs_total` (`leases_expired`),
`nixl_num_notifications_after_expiry_total` (`settlements_after_expiry`).
"""

import threading
from collections import Counter

import msgspec

from .service import LeaseEnd, PullFailure
from .transports.base import ReadOutcome


class TransferMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. Durations are sums in seconds over `transfers`."""

    transfers: int
    """Pulls whose blocks were verified and handed to the engine."""
    kv_bytes: int
    blocks: int
    transfer_s: float
    """From the start of a pull to its verified blocks."""
    read_s: float
    """From posting to the last byte."""
    post_s: float
    failures: dict[str, int]
    """Failed pulls by `PullFailure`."""
    settlements_lost: int
    """Acknowledgements and cancels that no peer answered before the lease ran out."""
    leases_offered: int
    leases_ended: dict[str, int]
    """Ended leases by `LeaseEnd`."""
    settlements_after_expiry: int
    """Consumers that were done only after their lease had expired."""
    internal_errors: int
    """Defects caught at a thread's or connection's edge; each is in the log."""

    @property
    def leases_expired(self) -> int:
        """Leases that nobody settled or released in time."""
        return self.leases_ended.get(LeaseEnd.EXPIRED.value, 0)


class TransferTally:
    """Adds up; any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Counter[str] = Counter()
        self._seconds: dict[str, float] = {"transfer_s": 0.0, "read_s": 0.0, "post_s": 0.0}
        self._failures: Counter[str] = Counter()
        self._leases_ended: Counter[str] = Counter()

    def count(self, name: str) -> None:
        """Add one to a plain counter of `TransferMetrics`."""
        with self._lock:
            self._sums[name] += 1

    def read_done(self, outcome: ReadOutcome, posted_at: float) -> None:
        """A read of a pull brought every byte."""
        with self._lock:
            self._seconds["read_s"] += outcome.done_at - posted_at
            self._seconds["post_s"] += outcome.post_s

    def pull_finished(self, *, blocks: int, kv_bytes: int, transfer_s: float) -> None:
        """A pull that had blocks to read was verified."""
        with self._lock:
            self._sums["transfers"] += 1
            self._sums["blocks"] += blocks
            self._sums["kv_bytes"] += kv_bytes
            self._seconds["transfer_s"] += transfer_s

    def pull_failed(self, reason: PullFailure) -> None:
        """A pull gave nothing."""
        with self._lock:
            self._failures[reason.value] += 1

    def lease_ended(self, how: LeaseEnd) -> None:
        """A lease ended."""
        with self._lock:
            self._leases_ended[how.value] += 1

    def snapshot(self) -> TransferMetrics:
        """Return all sums as of now."""
        with self._lock:
            return TransferMetrics(
                transfers=self._sums["transfers"],
                kv_bytes=self._sums["kv_bytes"],
                blocks=self._sums["blocks"],
                transfer_s=self._seconds["transfer_s"],
                read_s=self._seconds["read_s"],
                post_s=self._seconds["post_s"],
                failures=dict(self._failures),
                settlements_lost=self._sums["settlements_lost"],
                leases_offered=self._sums["leases_offered"],
                leases_ended=dict(self._leases_ended),
                settlements_after_expiry=self._sums["settlements_after_expiry"],
                internal_errors=self._sums["internal_errors"],
            )

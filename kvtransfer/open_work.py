"""Which leases and pulls are open, as seen from the callers' side: exact at any moment, from any thread."""

import threading

from .service import LeaseEnded, PullFailed, QuarantineLifted, TransferCounts, TransferEvent


class OpenWork:
    """Opened by the engine's calls, closed by the service's events."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: set[str] = set()
        self._pulls: set[str] = set()
        self._quarantined: set[str] = set()

    def open_lease(self, lease_id: str) -> None:
        """Raises `ValueError` for a lease that is open."""
        with self._lock:
            if lease_id in self._leases:
                raise ValueError(f"lease_id: {lease_id!r} is already offered")
            self._leases.add(lease_id)

    def open_pull(self, pull_id: str) -> None:
        """Raises `ValueError` for a pull that is open."""
        with self._lock:
            if pull_id in self._pulls:
                raise ValueError(f"pull_id: {pull_id!r} is already in use")
            self._pulls.add(pull_id)

    def on_event(self, event: TransferEvent) -> None:
        """Follow what the engine is being told."""
        with self._lock:
            match event:
                case LeaseEnded():
                    self._leases.discard(event.lease_id)
                case PullFailed(blocks_reusable=False):
                    self._quarantined.add(event.pull_id)
                case QuarantineLifted():
                    self._quarantined.discard(event.pull_id)

    def pull_settled(self, pull_id: str) -> None:
        """The peer knows, or will never need to."""
        with self._lock:
            self._pulls.discard(pull_id)

    def counts(self) -> TransferCounts:
        """Return the sizes as of now."""
        with self._lock:
            return TransferCounts(
                leases=len(self._leases),
                pulls=len(self._pulls),
                quarantined_pulls=len(self._quarantined),
            )

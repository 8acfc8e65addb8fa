"""How many requests may wait, how long, and how full workers get."""

from typing import Annotated

import msgspec


class AdmissionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many may wait, how long, and how full workers get."""

    queue_requests: Annotated[int, msgspec.Meta(ge=0)] = 1024
    """Requests that wait, over all models; 0: none, what finds no room is refused."""
    queue_bytes: Annotated[int, msgspec.Meta(ge=0)] = 512 * 1024 * 1024
    """Memory of their bodies."""
    max_wait_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """Longest wait; a client or tenant may ask for less."""
    wait_without_workers_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How long requests wait for a decode worker when none is up, as while one restarts."""
    share_every: Annotated[int, msgspec.Meta(ge=2)] = 16
    """One start in so many goes to the priority that has waited longest for one, however low."""
    overcommit: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Tokens granted for each token of a worker's capacity: above 1 where answers end early."""
    assumed_kv_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Capacity of workers that do not tell theirs; absent: without limit."""
    longest_retry_after_s: Annotated[int, msgspec.Meta(ge=1)] = 60
    """Most that `Retry-After` says."""

    def share(self, processes: int) -> "AdmissionConfig":
        """Return what one of so many processes allows, so that all of them together allow this."""
        return msgspec.structs.replace(
            self,
            queue_requests=-(-self.queue_requests // processes),
            queue_bytes=-(-self.queue_bytes // processes),
        )

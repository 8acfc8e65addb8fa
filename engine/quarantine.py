"""How long transfers whose end is unknown may keep a worker from serving. Pure; the engine loop asks.

A read that was given up lands when its peer goes on, be that hours later, so its blocks cannot be used before
it is terminal; nothing in this process could make it so. When such blocks leave too little room, the worker
ends by name: whoever runs it starts another, with a fresh pool that no old read knows.
"""

from .messages import BlockCounts

QUARANTINE_SHARE = 2
"""A pool with more than one block in so many in quarantine is too small to serve from."""
PATIENCE_S = 60.0
"""A peer that stands still for less than this costs no restart; clients retry elsewhere meanwhile."""


class QuarantineFullError(Exception):
    """Blocks that transfers may still write into leave no room to serve from."""


class QuarantineWatch:
    """Notes since when the quarantine has been too large."""

    def __init__(self) -> None:
        self._since: float | None = None

    def check(self, blocks: BlockCounts, now: float, *, is_stuck: bool) -> None:
        """Raise `QuarantineFullError` once there has been too little room for `PATIENCE_S`.

        is_stuck  requests wait, and no other one holds blocks that it could give back
        """
        is_too_small = blocks.quarantined * QUARANTINE_SHARE > blocks.total
        if not (is_too_small or (is_stuck and blocks.quarantined)):
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= PATIENCE_S:
            raise QuarantineFullError(
                f"{blocks.quarantined} of {blocks.total} blocks have been in quarantine for "
                f"{now - self._since:.0f} s: reads were given up whose peers neither answer nor end; "
                "this worker must be started anew"
            )

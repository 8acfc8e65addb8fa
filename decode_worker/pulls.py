"""Pulls in flight and the blocks they write into, from the command to the terminal event. Pure bookkeeping.

    start --PullFinished--> gone                     the blocks are verified
          --PullFailed, reusable--> gone             the blocks are the sequence's again
          --PullFailed, not reusable--> QUARANTINED --QuarantineLifted--> gone
    abandon (the request was aborted): the blocks go to quarantine at once, until any of the above says that
    nothing writes any more
    acknowledge: a pull without blocks and without a sequence; it only tells the peer that its lease may end

Called by the decode scheduler.
"""

from dataclasses import dataclass

from ..engine.block_pool import BlockPool
from ..engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class PullInFlight:
    """One pull; without a sequence, nobody waits for it."""

    pull_id: str
    sequence: Sequence | None
    blocks: list[int]
    """Written by the transfer: the sequence's last ones, or in quarantine when there is no sequence."""


class PullTable:
    """All pulls that are not terminal."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._pulls: dict[str, PullInFlight] = {}
        self._started = 0

    def __len__(self) -> int:
        return len(self._pulls)

    def start(self, name: str, sequence: Sequence | None, blocks: list[int]) -> PullInFlight:
        """Remember a new pull; its id is unique in this process."""
        self._started += 1
        pull = PullInFlight(f"{name}/{self._started}", sequence, blocks)
        self._pulls[pull.pull_id] = pull
        return pull

    def finish(self, pull_id: str) -> Sequence | None:
        """Note that a pull is terminal; return the sequence that waits for it and still has the blocks."""
        pull = self._pulls.pop(pull_id)
        if pull.sequence is None:
            self._pool.lift(pull.blocks)
        return pull.sequence

    def fail(self, pull_id: str) -> Sequence | None:
        """Note a failure after which the transfer may still write: the blocks stay in quarantine.

        Returns the sequence that waited, now without these blocks.
        """
        pull = self._pulls[pull_id]
        sequence = pull.sequence
        if sequence is not None:
            self._quarantine(pull)
        return sequence

    def abandon(self, sequence: Sequence) -> str:
        """Cut a sequence off from its pull; return the pull's id, to be cancelled."""
        [pull] = [pull for pull in self._pulls.values() if pull.sequence is sequence]
        self._quarantine(pull)
        return pull.pull_id

    def quarantined(self) -> list[int]:
        """Return the blocks that wait for a terminal event without an owner."""
        return [block for pull in self._pulls.values() if pull.sequence is None for block in pull.blocks]

    def _quarantine(self, pull: PullInFlight) -> None:
        assert pull.sequence is not None, f"pull {pull.pull_id} has no sequence"
        written = set(pull.blocks)
        pull.sequence.blocks = [block for block in pull.sequence.blocks if block not in written]
        pull.sequence = None
        self._pool.quarantine(pull.blocks)

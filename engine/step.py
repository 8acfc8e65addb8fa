"""One engine step as a scheduler plans it, and the commands it gives beside.

A step runs in this order: copies, then the prompt chunks, then the decode rows, then one draw for each
choice of the sequences in `completed` and `decode`. The runner executes it, the scheduler learns the result.
"""

from dataclasses import dataclass, field

from ..kvtransfer.service import Offer, Pull
from .messages import EngineMessage
from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class Copy:
    """Duplicate one block's bytes before anything else in the step: copy on write."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `length` uncomputed tokens of a sequence."""

    sequence: Sequence
    length: int


@dataclass(frozen=True, slots=True)
class Step:
    """What to compute now."""

    copies: list[Copy] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    decode: list[Sequence] = field(default_factory=list)
    completed: list[Sequence] = field(default_factory=list)
    """Sequences whose last uncomputed token is in `chunks`, in that order: they draw a token."""
    follows: list[int | None] | None = None
    """For each decode row the draw of the step before that is its input, not known to the host yet, counted
    over that step's decode rows; None: the sequence's last token is. Absent: all are known."""

    @property
    def is_empty(self) -> bool:
        """There is nothing to compute."""
        return not (self.copies or self.chunks or self.decode)

    def computed(self) -> list[tuple[Sequence, int]]:
        """Return every sequence the step computes something of, with how many tokens."""
        chunks = [(chunk.sequence, chunk.length) for chunk in self.chunks]
        return chunks + [(sequence, 1) for sequence in self.decode]


@dataclass(frozen=True, slots=True)
class Send:
    """Tell the frontend."""

    message: EngineMessage


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """End a lease early."""

    lease_id: str


@dataclass(frozen=True, slots=True)
class CancelPull:
    """Give a pull up."""

    pull_id: str


Command = Send | Offer | Pull | ReleaseLease | CancelPull
"""What a scheduler asks of the loop around it, executed in order."""

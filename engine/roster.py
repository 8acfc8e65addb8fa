"""Which sequences are in which stage: a list for each, and the only writer of `Sequence.stage`. Pure."""

from bisect import insort
from operator import attrgetter

from .sequence import Sequence, Stage

by_age = attrgetter("order")


class Roster:
    """All open sequences by stage. Every list but `decoding` is in order of age, oldest first."""

    def __init__(self) -> None:
        self.waiting: list[Sequence] = []
        self.pulling: list[Sequence] = []
        self.ready: list[Sequence] = []
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        """Rows of the decode batch; `Sequence.row` is the place. The last row fills the place of one that
        leaves, so that a change of the batch moves one row and not all behind it."""
        self._lists = {
            Stage.WAITING: self.waiting,
            Stage.PULLING: self.pulling,
            Stage.READY: self.ready,
            Stage.PREFILL: self.prefilling,
            Stage.DECODE: self.decoding,
        }

    def add(self, sequence: Sequence, stage: Stage) -> None:
        """List a sequence that is in no list."""
        sequence.stage = stage
        if stage is Stage.DECODE:
            sequence.row = len(self.decoding)
            self.decoding.append(sequence)
        elif stage is not Stage.ENDED:
            insort(self._lists[stage], sequence, key=by_age)

    def move(self, sequence: Sequence, stage: Stage) -> None:
        """Change the stage of a listed sequence."""
        if sequence.stage is Stage.DECODE:
            last = self.decoding.pop()
            if last is not sequence:
                self.decoding[sequence.row] = last
                last.row = sequence.row
        else:
            self._lists[sequence.stage].remove(sequence)
        self.add(sequence, stage)

    def batch_choices(self) -> int:
        """Return how many choices are in the decode batch or on their way into it."""
        return sum(len(s.choices) for s in self.prefilling) + sum(len(s.choices) for s in self.decoding)

    def nothing_moves(self) -> bool:
        """Tell whether no listed sequence holds blocks."""
        return not (self.pulling or self.ready or self.prefilling or self.decoding)

    def newest_preemptible(self) -> Sequence:
        """Return the newest sequence whose blocks can be taken back at once: a pull's cannot."""
        return max([*self.ready, *self.prefilling, *self.decoding], key=by_age)

    def problems(self, expected: list[Sequence]) -> list[str]:
        """Return what is wrong with the lists, given all open sequences; empty is sound."""
        listed = [(stage, sequence) for stage, members in self._lists.items() for sequence in members]
        found = [
            f"{sequence.request.id} is {sequence.stage.value} but listed as {stage.value}"
            for stage, sequence in listed
            if sequence.stage is not stage
        ]
        found += [f"row {i} says it is {s.row}" for i, s in enumerate(self.decoding) if s.row != i]
        if sorted(id(sequence) for _, sequence in listed) != sorted(map(id, expected)):
            found.append(f"{len(listed)} sequences are listed, {len(expected)} are open")
        return found

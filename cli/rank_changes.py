"""Adding a rank to a group of a running fleet and taking one out, one at a time. No I/O.

    add      JOINING --it is ready--> a member like the others, and the proxy is told
    remove   UNLISTING --the proxy has forgotten it--> LEAVING --it has left and ended--> gone
             LEAVING --the others cannot do without it--> a member as before, and the proxy is told

A newcomer that ends before it is ready, and a rank that ends before it has left, are not started again.
"""

import enum

import msgspec

from .fleet_messages import Answer, Command, List, Unlist
from .rank_groups import RankGroups, RankPlace


class Stage(enum.Enum):
    """Where the worker that joins or leaves is."""

    JOINING = "joining"
    UNLISTING = "unlisting"
    LEAVING = "leaving"


class _Change(msgspec.Struct, kw_only=True):
    name: str
    stage: Stage
    beside: str
    """Another worker of the group."""
    call: int
    """Whoever asked is answered under this number."""


class RankChanges:
    """The groups of a fleet, and the change that is under way."""

    def __init__(self, groups: RankGroups) -> None:
        self._groups = groups
        self._change: _Change | None = None

    def place(self, name: str) -> RankPlace | None:
        """Return what a worker that starts now is told; none for one by itself, or one that joins."""
        return self._groups.place(name)

    def stage(self, name: str) -> Stage | None:
        """Return where a worker is that joins or leaves now."""
        return self._change.stage if self._change is not None and self._change.name == name else None

    def mates(self, name: str) -> list[str]:
        """Return the group of a worker; that of one that joins, those it joins."""
        if self._change is not None and self._change.name == name:
            return self._groups.mates(self._change.beside)
        return self._groups.mates(name)

    def refusal(self, name: str, *, leaves: bool) -> str | None:
        """Say why this group cannot change now, if it cannot."""
        mates = self._groups.mates(name)
        if self._change is not None:
            return f"{self._change.name} is {self._change.stage.value}: one change at a time"
        if not mates:
            return f"{name} is no rank of a group (see --prefill-ranks and --decode-ranks)"
        if leaves and len(mates) == 1:
            return f"{name} is the last rank of its group"
        return None

    def begin_join(self, call: int, name: str, beside: str) -> None:
        """A newcomer is being started."""
        self._change = _Change(name=name, stage=Stage.JOINING, beside=beside, call=call)

    def begin_leave(self, call: int, name: str) -> list[Command]:
        """Have the proxy forget a rank first."""
        beside = next(mate for mate in self._groups.mates(name) if mate != name)
        self._change = _Change(name=name, stage=Stage.UNLISTING, beside=beside, call=call)
        self._groups.remove(name)
        return [Unlist(name=name)]

    def on_joined(self, listing: List) -> list[Command]:
        """The newcomer serves."""
        change = self._end()
        self._groups.add(change.name, change.beside)
        return [listing, self._answer(change, f"{change.name} serves, {self._group(change)}", is_done=True)]

    def on_unlisted(self, problem: str | None) -> list[Command]:
        """The proxy has forgotten the rank, or will not."""
        assert self._change is not None
        if problem is None:
            self._change.stage = Stage.LEAVING
            return []
        return self.on_stays(problem, [])

    def on_stays(self, reason: str, listing: list[Command]) -> list[Command]:
        """The rank that was to leave serves on."""
        change = self._end()
        self._groups.add(change.name, change.beside)
        return [*listing, self._answer(change, f"{change.name} stays: {reason}", is_done=False)]

    def on_gone(self, name: str, reason: str | None) -> list[Command]:
        """A worker that joins or leaves has ended; no `reason`: it has left as it should, asked or not."""
        if self.stage(name) is None:
            self._groups.remove(name)
            return [Unlist(name=name)]
        change = self._end()
        if reason is None:
            return [self._answer(change, f"{name} has left, {self._group(change)}", is_done=True)]
        verb = "join" if change.stage is Stage.JOINING else "leave"
        return [self._answer(change, f"{name} ended before it could {verb}: {reason}", is_done=False)]

    def _end(self) -> _Change:
        change, self._change = self._change, None
        assert change is not None
        return change

    def _group(self, change: _Change) -> str:
        names = self._groups.mates(change.beside)
        return f"its group is now {', '.join(names)}"

    def _answer(self, change: _Change, text: str, *, is_done: bool) -> Answer:
        return Answer(call=change.call, text=text, is_done=is_done)

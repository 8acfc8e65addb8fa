"""Which change of a group is under way: state that all ranks keep alike, because plans decide. No I/O.

    SETTLED --a plan tells of ranks that leave, or of a newcomer--> UNDER WAY: all get ready beside steps
    UNDER WAY --a plan tells that all are ready--> they change between the same two steps
    UNDER WAY --a plan tells that one gives up--> SETTLED: the group is as it was
    UNDER WAY --others leave than before--> UNDER WAY, anew

One newcomer at a time; ranks that want to leave meanwhile wait until it is in.
"""

import enum

import msgspec

from .lockstep import Plan


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Who will be in the group that was not, and the reverse."""

    leaving: tuple[int, ...] = ()
    """Their ranks today."""
    joins: bool = False
    """A newcomer becomes the last rank."""

    def __bool__(self) -> bool:
        return self.joins or bool(self.leaving)


class Next(enum.Enum):
    """What a rank does about changes after a step."""

    NOTHING = "nothing"
    GET_READY = "get ready"
    """For the change now under way; what was made ready for another is dropped."""
    CHANGE = "change"
    STAY = "stay"
    """Nobody changes; what was made ready is dropped."""


class Outcome(enum.Enum):
    """What has become of a change."""

    GOES_ON = "goes on"
    """In the changed group."""
    LEFT = "left"
    STAYS = "stays"
    """As it was."""


class Membership:
    """One rank's view of it."""

    def __init__(self) -> None:
        self.under_way = Change()
        self.attempt = 0
        """Numbers the changes that were begun."""

    def on_plan(self, plan: Plan) -> Next:
        """Take note of a plan, which speaks of the change that was under way before it."""
        before = self.under_way
        self.under_way = self._wanted(plan)
        if before and plan.one_gives_up:
            return self.stay()
        if self.under_way == before:
            return Next.CHANGE if before and plan.all_prepared else Next.NOTHING
        if not self.under_way:
            return Next.STAY
        self.attempt += 1
        return Next.GET_READY

    def stay(self) -> Next:
        """Give the change up; whoever wanted it must want it anew."""
        self.under_way = Change()
        return Next.STAY

    def _wanted(self, plan: Plan) -> Change:
        if plan.has_newcomer and (self.under_way.joins or not plan.leaving):
            return Change(joins=True)
        return Change(leaving=plan.leaving)

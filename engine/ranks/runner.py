"""Runs steps together with the other ranks: agrees first, then computes this rank's share or a dummy one.

Every rank makes the same passes through the model in the same order, one prefill if any rank has prompts,
one decode if any rank has rows. A pass that fails on one rank fails the group: the others are amid it.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..config import OverlapConfig
from ..messages import ExpertBalance, RankStanding
from ..runner import Flight, LaunchedStep, StepRunner
from ..sampler import SampledToken
from ..sequence import null_sequence
from ..step import Chunk, Step
from .errors import GroupFailedError
from .lockstep import Lockstep, Plan, Pulse, Wish, as_numbers, as_plan
from .membership import Change, Membership, Next, Outcome
from .phased_model import PhasedModel

logger = logging.getLogger(__name__)


class Bells(Protocol):
    """Wakes ranks; `watch.Watch` implements it."""

    rung_wave: int | None

    def ring(self, wave: int) -> None:
        """Wake all other ranks."""


class Group(Protocol):
    """What a step needs of the group; `group.RankGroup` implements it."""

    @property
    def rank(self) -> int:
        """This one."""

    @property
    def size(self) -> int:
        """Of the group."""

    @property
    def watch(self) -> Bells:
        """The line to the other ranks."""

    def largest(self, numbers: list[int]) -> list[int]:
        """Return the maximum over all ranks."""

    def check(self) -> None:
        """Raise when a rank has ended."""

    def failure(self, error: Exception | None) -> GroupFailedError:
        """Return what to raise when a step failed."""


class Changes(Protocol):
    """Makes a rank's part of changes of its group; `regroup.Regrouping` implements it."""

    @property
    def has_newcomer(self) -> bool:
        """Whether someone wants to join by this rank."""

    @property
    def standing(self) -> RankStanding:
        """This rank's place now."""

    def get_ready(self, change: Change, attempt: int) -> None:
        """Begin to make ready for a change, and drop what was begun for another."""

    def is_ready(self) -> bool:
        """Tell whether this rank could change now."""

    def trouble(self) -> str | None:
        """Say why the change under way cannot be, if it cannot."""

    def stay(self) -> None:
        """Go on as before."""

    def change(self) -> Outcome:
        """Change at the same time as all ranks, if that is possible on all of them."""


class _News(NamedTuple):
    """What one rank has to say about changes of the group."""

    leaves: bool = False
    has_newcomer: bool = False
    is_ready: bool = False
    gives_up: bool = False


_NOTHING = LaunchedStep([], is_on_gpu=False)


class LockstepRunner:
    """A `StepRunner` that never runs alone, and the loop's `Pace`."""

    def __init__(
        self,
        runner: StepRunner,
        model: PhasedModel,
        group: Group,
        *,
        bucket_of: Callable[[int], int],
        idle_steps: int,
        overlap: OverlapConfig | None = None,
        changes: Changes | None = None,
    ) -> None:
        self._runner = runner
        self._model = model
        self._group = group
        self._bucket_of = bucket_of
        self._overlap = overlap or OverlapConfig()
        self._idle_steps = idle_steps
        self._lockstep = Lockstep(idle_steps)
        self._membership = Membership()
        self._changes = changes
        self._told = _News()
        self._leaves = self._has_drained = self._wants_to_end = self._found_no_work = False
        self._stays_because: str | None = None
        self._prompt, self._row = (null_sequence(max_tokens=1, computed=computed) for computed in (0, 1))

    def is_due(self, step: Step) -> bool:
        """Tell whether this rank takes part in a step now, be it an empty one. Raises `GroupFailedError`."""
        self._group.check()
        rung = self._group.watch.rung_wave
        if rung is not None:
            self._lockstep.on_ring(rung)
        if not step.is_empty or self._wants_to_end or self._news() != self._told:
            self._wake_all()
        return self._lockstep.pulse is Pulse.AWAKE

    def may_end(self) -> bool:
        """Ask to end; true once every rank has asked and none has work, or this one has left."""
        self._has_drained = True
        self._wants_to_end = not self._leaves
        return self._lockstep.pulse is Pulse.ENDED

    def leave(self) -> bool:
        """Let the others get ready to go on without this one; on GPUs they cannot."""
        self._leaves = self._changes is not None
        return self._leaves

    def refusal(self) -> str | None:
        """Return, once, why this rank stays although it was told to leave."""
        refusal, self._stays_because = self._stays_because, None
        return refusal

    @property
    def waits_for_others(self) -> bool:
        """This rank wants to end, and some other one does not yet; the last agreement found no work."""
        return self._wants_to_end and self._found_no_work

    @property
    def expert_balance(self) -> ExpertBalance | None:
        """How even the load of experts is over ranks."""
        return self._model.rebalancer.balance

    @property
    def ranks(self) -> RankStanding | None:
        """This rank's place, in a group that can change."""
        return None if self._changes is None else self._changes.standing

    def launch(self, step: Step) -> Flight:
        """Agree, then begin what the agreement says."""
        news = self._told = self._news()
        wish = Wish(
            prompt_tokens=sum(chunk.length for chunk in step.chunks),
            decode_rows=len(step.decode),
            wants_to_end=self._wants_to_end,
            leaving=tuple(rank == self._group.rank and news.leaves for rank in range(self._group.size)),
            has_newcomer=news.has_newcomer,
            is_prepared=news.is_ready,
            gives_up=news.gives_up,
        )
        plan = as_plan(self._group.largest(as_numbers(wish)))
        self._lockstep.on_plan(plan)
        self._found_no_work = plan.is_empty
        try:
            flight = _GroupFlight(self._launch(step, plan), self._group)
            if self._changes is not None:
                self._follow(plan, self._changes)
            return flight
        except GroupFailedError:
            raise
        except Exception as error:
            raise self._group.failure(error) from error

    def _news(self) -> _News:
        changes = self._changes
        if changes is None:
            return _News()
        is_ready = changes.is_ready() and (self._has_drained or not self._leaves)
        return _News(self._leaves, changes.has_newcomer, is_ready, changes.trouble() is not None)

    def _follow(self, plan: Plan, changes: Changes) -> None:
        """Take this rank's part in changes of the group."""
        match self._membership.on_plan(plan):
            case Next.GET_READY:
                changes.get_ready(self._membership.under_way, self._membership.attempt)
            case Next.STAY:
                self._stay(changes)
            case Next.CHANGE:
                self._change(changes)

    def _stay(self, changes: Changes) -> None:
        trouble = changes.trouble() or "another rank could not get ready for the change; its log says why"
        logger.warning("the group stays as it is: %s", trouble)
        changes.stay()
        if self._leaves:
            self._leaves = self._has_drained = False
            self._stays_because = trouble

    def _change(self, changes: Changes) -> None:
        outcome = changes.change()
        if outcome is Outcome.STAYS:
            self._membership.stay()
            self._stay(changes)
            return
        self._membership, self._told = Membership(), _News()
        self._lockstep = Lockstep(self._idle_steps)
        if outcome is Outcome.LEFT:
            self._lockstep.pulse = Pulse.ENDED
        else:
            logger.info("this rank is now rank %d of %d", self._group.rank, self._group.size)

    def _wake_all(self) -> None:
        wave = self._lockstep.on_work()
        if wave is not None:
            self._group.watch.ring(wave)

    def warm_up(self, step: Step) -> None:
        """Run a step that all ranks run at the same time; a newcomer's others may sleep."""
        self._wake_all()
        self.launch(step).land()

    def _launch(self, step: Step, plan: Plan) -> Flight:
        self._model.decode_rows = self._bucket_of(plan.decode_rows) if plan.decode_rows else 0
        self._model.prefill_in_halves = _reaches(plan.fewest_prompt_tokens, self._overlap.prompt_tokens)
        self._model.decode_in_halves = _reaches(plan.fewest_decode_rows, self._overlap.decode_rows)
        if plan.prompt_tokens and not step.chunks:
            self._run_dummy(Step(chunks=[Chunk(self._prompt, 1)]))
        flight = _NOTHING if step.is_empty else self._runner.launch(step)
        if plan.decode_rows and not step.decode:
            self._run_dummy(Step(decode=[self._row]))
        if not plan.is_empty:
            self._model.rebalancer.after_step()
        return flight

    def _run_dummy(self, step: Step) -> None:
        with self._model.rebalancer.uncounted():
            self._runner.launch(step)


class _GroupFlight:
    """A flight whose failure is the group's."""

    def __init__(self, flight: Flight, group: Group) -> None:
        self._flight = flight
        self._group = group

    def land(self) -> list[SampledToken | None]:
        """Wait for the step."""
        try:
            return self._flight.land()
        except Exception as error:
            raise self._group.failure(error) from error


def _reaches(fewest: int, threshold: int | None) -> bool:
    """Whether the step is worth two halves on every rank; each needs something to compute."""
    return threshold is not None and fewest >= max(threshold, 2)

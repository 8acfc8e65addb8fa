"""Runs steps together with the other ranks: agrees first, then computes this rank's share or a dummy one.

Every rank makes the same passes through the model in the same order, one prefill if any rank has prompts,
one decode if any rank has rows. A pass that fails on one rank fails the group: the others are amid it.
"""

from collections.abc import Callable
from typing import Protocol

from ..config import OverlapConfig
from ..messages import ExpertBalance, Generate, SamplingParams
from ..runner import Flight, LaunchedStep, StepRunner
from ..sampler import SampledToken
from ..sequence import Sequence, new_request
from ..step import Chunk, Step
from .errors import GroupFailedError
from .lockstep import Departures, Lockstep, Plan, Pulse, Wish, as_numbers, as_plan
from .phased_model import PhasedModel


class Bells(Protocol):
    """Wakes ranks; `watch.Watch` implements it."""

    rung_wave: int | None

    def ring(self, wave: int) -> None:
        """Wake all other ranks."""


class Group(Protocol):
    """What a step needs of the group; `group.RankGroup` implements it."""

    rank: int
    size: int

    @property
    def watch(self) -> Bells:
        """The line to the other ranks."""

    def largest(self, numbers: list[int]) -> list[int]:
        """Return the maximum over all ranks."""

    def check(self) -> None:
        """Raise when a rank has ended."""

    def failure(self, error: Exception | None) -> GroupFailedError:
        """Return what to raise when a step failed."""


class Parting(Protocol):
    """Goes on without ranks that leave; `regroup.Regrouping` implements it."""

    def prepare(self, leaving: tuple[int, ...]) -> None:
        """Begin to prepare for that, if it has not begun."""

    def is_prepared(self) -> bool:
        """Tell whether this rank could part now."""

    def part(self) -> bool:
        """Part; tell whether this rank goes on with others."""


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
        parting: Parting | None = None,
    ) -> None:
        self._runner = runner
        self._model = model
        self._group = group
        self._bucket_of = bucket_of
        self._overlap = overlap or OverlapConfig()
        self._idle_steps = idle_steps
        self._lockstep = Lockstep(idle_steps)
        self._departures = Departures()
        self._parting = parting
        self._wants_to_end = self._leaves = self._wants_to_leave = False
        self._prompt, self._row = _dummy(computed=0), _dummy(computed=1)

    def is_due(self, step: Step) -> bool:
        """Tell whether this rank takes part in a step now, be it an empty one. Raises `GroupFailedError`."""
        self._group.check()
        rung = self._group.watch.rung_wave
        if rung is not None:
            self._lockstep.on_ring(rung)
        if not step.is_empty or self._wants_to_end or self._wants_to_leave:
            wave = self._lockstep.on_work()
            if wave is not None:
                self._group.watch.ring(wave)
        return self._lockstep.pulse is Pulse.AWAKE

    def may_end(self) -> bool:
        """Ask to end, or to leave; true once every rank has asked and none has work, or this one has left."""
        self._wants_to_end, self._wants_to_leave = not self._leaves, self._leaves
        return self._lockstep.pulse is Pulse.ENDED

    def leave(self) -> None:
        """End without the others."""
        self._leaves = self._parting is not None

    @property
    def expert_balance(self) -> ExpertBalance | None:
        """How even the load of experts is over ranks."""
        return self._model.rebalancer.balance

    def launch(self, step: Step) -> Flight:
        """Agree, then begin what the agreement says."""
        wish = Wish(
            prompt_tokens=sum(chunk.length for chunk in step.chunks),
            decode_rows=len(step.decode),
            wants_to_end=self._wants_to_end,
            leaving=tuple(
                rank == self._group.rank and self._wants_to_leave for rank in range(self._group.size)
            ),
            is_prepared=self._parting is not None and self._parting.is_prepared(),
        )
        plan = as_plan(self._group.largest(as_numbers(wish)))
        self._lockstep.on_plan(plan)
        try:
            flight = _GroupFlight(self._launch(step, plan), self._group)
            self._see_off(plan)
            return flight
        except Exception as error:
            raise self._group.failure(error) from error

    def _see_off(self, plan: Plan) -> None:
        """Prepare for ranks that want to leave; part once all are prepared."""
        if self._parting is None:
            return
        if not self._departures.on_plan(plan):
            self._parting.prepare(self._departures.known)
            return
        self._departures = Departures()
        self._lockstep = Lockstep(self._idle_steps)
        if not self._parting.part():
            self._lockstep.pulse = Pulse.ENDED

    def warm_up(self, step: Step) -> None:
        """Run a step that all ranks run at the same time, before any can sleep."""
        self._lockstep.on_work()
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


def _dummy(computed: int) -> Sequence:
    """Return two tokens in the null block, of which the second can be computed for ever."""
    sampling = SamplingParams(max_tokens=1, temperature=0.0)
    generate = Generate(request_id="", external_id="", prompt_token_ids=[0, 0], sampling=sampling)
    [sequence] = new_request(generate, 0, 0.0).sequences
    sequence.blocks = [0, 0]
    sequence.num_computed = computed
    return sequence

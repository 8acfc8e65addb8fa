"""The engine loop: hears, schedules, computes, tells. It never spins, and waits for no network but that of
the ranks it agrees with before every step, where it has any.

One turn:

1. messages of the frontend and events of the transfer service go to the scheduler;
2. the scheduler decides the next step;
3. the runner launches it; once it has landed, the scheduler learns the result;
4. after each of these, the scheduler's commands are executed in order;
5. what the turn did to the prefix cache is published.

With `run_ahead`, a step lands only when the one behind it was launched, where that one can be decided without
its result: then the device has work while the host decides.

A step that raises fails the requests in it. Several such steps in a row end the engine: then the fault lies
not with the requests. A broken invariant of the scheduler is an exception too, and always ends the engine.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from ..kvtransfer.service import Offer, PeerConnected, PeerRefused, Pull, TransferEvent, TransferService
from .inbox import Inbox
from .messages import (
    Abort,
    AbortExternal,
    CheckIntegrity,
    ConnectPeer,
    EngineStats,
    ExpertBalance,
    FailureKind,
    FrontendMessage,
    Generate,
    IntegrityReport,
    LeaveRanks,
    LeaveResult,
    PeerResult,
    RankStanding,
    Shutdown,
)
from .quarantine import QuarantineWatch
from .ranks.errors import GroupFailedError
from .runner import Flight, StepRunner
from .scheduler import Scheduler
from .stats import engine_stats
from .step import CancelPull, Command, ReleaseLease, Send, Step

FAILED_STEPS_BEFORE_FATAL = 3

HOUSEKEEPING_S = 1.0
"""The longest sleep: how late the death of the frontend can be noticed."""

RANKS_PAUSE_S = 0.005
"""Between two questions whether the other ranks are done too."""

logger = logging.getLogger(__name__)


class EngineFailedError(Exception):
    """The engine cannot go on."""


class Pace(Protocol):
    """When the loop computes: by itself, or together with other ranks."""

    def is_due(self, step: Step) -> bool:
        """Tell whether to run this step now, even if it is empty."""

    def may_end(self) -> bool:
        """Tell whether a loop that has nothing left to do may end; asking is the wish to."""

    def leave(self) -> bool:
        """Let other ranks get ready to go on without this one; tell whether there are any that could."""

    def refusal(self) -> str | None:
        """Return, once, why they cannot."""

    @property
    def waits_for_others(self) -> bool:
        """Only other ranks keep this loop from its end, and none of them has work now."""

    @property
    def expert_balance(self) -> ExpertBalance | None:
        """How even the load of experts is over ranks, where they are placed by it."""

    @property
    def ranks(self) -> RankStanding | None:
        """This rank's place, in a group that can change."""


class OwnPace:
    """Computes whenever there is something to compute."""

    expert_balance: ExpertBalance | None = None
    ranks: RankStanding | None = None
    waits_for_others = False

    def is_due(self, step: Step) -> bool:
        """Tell whether the step has content."""
        return not step.is_empty

    def leave(self) -> bool:
        """There is nobody to leave."""
        return False

    def refusal(self) -> str | None:
        """Nobody minds."""
        return None

    def may_end(self) -> bool:
        """End at once."""
        return True


class _Crashed:
    """A flight that ended at its launch; it is told of when it should have landed, behind those before it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def land(self) -> NoReturn:
        raise self._error


@dataclass(frozen=True, slots=True)
class _Flying:
    """A step and the runner's word for it."""

    step: Step
    flight: Flight


class EngineLoop:
    """Runs until it is told to shut down.

    `run_ahead` launches a step before the one ahead of it has landed. `clock` gives seconds that only grow.
    `check_parent` raises once nobody is served any more. `publish` sends the KV events of a turn.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: StepRunner,
        service: TransferService,
        inbox: Inbox,
        clock: Callable[[], float],
        stats_interval_s: float,
        check_parent: Callable[[], None],
        publish: Callable[[], None],
        pace: Pace | None = None,
        run_ahead: bool = False,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._service = service
        self._inbox = inbox
        self._clock = clock
        self._stats_interval_s = stats_interval_s
        self._check_parent = check_parent
        self._publish = publish
        self._pace = pace or OwnPace()
        self._run_ahead = run_ahead
        self._flying: _Flying | None = None
        self._sent_stats: EngineStats | None = None
        self._stats_at = self._housekept_at = clock()
        self._quarantine = QuarantineWatch()
        self._failed_steps = 0
        self._has_worked = False
        self._end_at: float | None = None
        self._leaves_ranks = False

    def run(self) -> None:
        """Turn until shut down. Raises `EngineFailedError` when steps keep failing, `QuarantineFullError`."""
        while not self.is_over():
            if not self.turn():
                self.settle_down()
                self._inbox.wait(self._sleep_s())
            elif self._pace.waits_for_others:
                self._inbox.wait(RANKS_PAUSE_S)
        self._execute(self._scheduler.fail_all(FailureKind.UNAVAILABLE, "this worker has shut down"))
        if self._leaves_ranks:
            self._inbox.send(LeaveResult())

    def turn(self) -> bool:
        """Hear everything, launch or land a step; tell whether there was anything to compute."""
        now = self._clock()
        for message in self._inbox.messages():
            self._execute(self._on_message(message, now))
        for event in self._inbox.events():
            self._execute(self._on_transfer_event(event, now))
        has_worked = self._advance(now)
        if self._leaves_ranks:
            self._follow_leave(now)
        self._publish()
        self._keep_house(now)
        return has_worked

    def settle_down(self) -> None:
        """After the last request: check the books and show them at rest."""
        if self._has_worked and not self._scheduler.requests:
            self._has_worked = False
            for problem in self._scheduler.problems():
                logger.error("self-check: %s", problem)
            self._send_stats()

    def is_over(self) -> bool:
        """Tell whether a shutdown was asked for and nothing is left to wait for, or no time."""
        if self._end_at is None:
            return False
        scheduler = self._scheduler
        is_flying = self._flying is not None and not self._flying.step.is_empty
        is_done = not (scheduler.requests or scheduler.leases or scheduler.pulls or is_flying)
        is_late = self._clock() >= self._end_at and not self._leaves_ranks  # who leaves waits for the others
        return (is_done and self._pace.may_end()) or is_late

    def _on_message(self, message: FrontendMessage, now: float) -> list[Command]:
        match message:
            case Generate():
                return self._scheduler.on_generate(message, now)
            case Abort():
                return self._scheduler.on_abort(message.request_id, message.choice)
            case AbortExternal():
                return self._scheduler.on_abort_external(message.call_id, message.external_id)
            case ConnectPeer():
                self._service.connect(message.call_id, message.host, message.port)
                return []
            case CheckIntegrity():
                return [Send(self._integrity(message.call_id))]
            case LeaveRanks():
                self._leaves_ranks = self._pace.leave()
                return []
            case Shutdown():
                self._scheduler.is_draining = True
                self._end_at = now + message.grace_s
                return []

    def _follow_leave(self, now: float) -> None:
        """End what has had its time; serve on if the other ranks could not do without this one."""
        if self._end_at is not None and now >= self._end_at:
            self._execute(self._scheduler.fail_all(FailureKind.UNAVAILABLE, "this worker leaves its ranks"))
        refusal = self._pace.refusal()
        if refusal is not None:
            self._scheduler.is_draining = self._leaves_ranks = False
            self._end_at = None
            self._inbox.send(LeaveResult(stays_because=refusal))

    def _on_transfer_event(self, event: TransferEvent, now: float) -> list[Command]:
        self._has_worked = True
        match event:
            case PeerConnected():
                return [Send(PeerResult(call_id=event.call_id, incarnation=event.incarnation, error=None))]
            case PeerRefused():
                return [Send(PeerResult(call_id=event.call_id, incarnation=None, error=event.message))]
            case _:
                return self._scheduler.on_transfer_event(event, now)

    def _advance(self, now: float) -> bool:
        if self._flying is None:
            self._flying = self._launch(*self._scheduler.schedule(now))
            has_worked = self._flying is not None
            if not self._run_ahead:
                self._land()
            return has_worked
        behind = self._launch_behind(self._flying, now)
        self._land()
        self._flying = behind
        return True

    def _launch_behind(self, flying: "_Flying", now: float) -> "_Flying | None":
        if isinstance(flying.flight, _Crashed):
            return None  # nothing was drawn that a step could follow
        ahead = self._scheduler.schedule_ahead(flying.step, now)
        return None if ahead is None else self._launch(*ahead)

    def _launch(self, step: Step, commands: list[Command]) -> "_Flying | None":
        self._execute(commands)
        if not self._pace.is_due(step):
            return None
        self._has_worked = self._has_worked or not step.is_empty
        try:
            flight = self._runner.launch(step)
        except GroupFailedError:
            raise
        except Exception as error:
            flight = _Crashed(error)
        self._scheduler.on_launch(step)
        return _Flying(step, flight)

    def _land(self) -> None:
        flying, self._flying = self._flying, None
        if flying is None:
            return
        try:
            draws = flying.flight.land()
        except GroupFailedError:
            raise
        except Exception as error:
            step = flying.step
            logger.exception("a step failed: %d chunks, %d decode rows", len(step.chunks), len(step.decode))
            self._on_failed_step(step, error)
            return
        self._failed_steps = 0
        self._execute(self._scheduler.on_step(flying.step, draws, self._clock()))

    def _on_failed_step(self, step: Step, error: Exception) -> None:
        message = f"the engine failed while computing this request: {type(error).__name__}: {error}"
        self._execute(self._scheduler.on_step_failed(step, message))
        self._failed_steps += 1
        if self._failed_steps == FAILED_STEPS_BEFORE_FATAL:
            raise EngineFailedError(
                f"{self._failed_steps} steps in a row failed, the last one: {error}"
            ) from error

    def _execute(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send():
                    self._inbox.send(command.message)
                case Offer():
                    self._service.offer(command)
                case Pull():
                    self._service.pull(command)
                case ReleaseLease():
                    self._service.release(command.lease_id)
                case CancelPull():
                    self._service.cancel_pull(command.pull_id)

    def _keep_house(self, now: float) -> None:
        if now - self._housekept_at >= HOUSEKEEPING_S:
            self._housekept_at = now
            self._check_parent()
            scheduler = self._scheduler
            blocks, is_stuck = scheduler.cache.pool.counts(), scheduler.is_stuck()
            self._quarantine.check(blocks, now, is_stuck=is_stuck)
        if now - self._stats_at >= self._stats_interval_s:
            self._send_stats()

    def _send_stats(self) -> None:
        self._stats_at = self._clock()
        pace = self._pace
        stats = engine_stats(self._scheduler, self._service, pace.expert_balance, pace.ranks)
        if stats != self._sent_stats:
            self._sent_stats = stats
            self._inbox.send(stats)

    def _integrity(self, call_id: str) -> IntegrityReport:
        scheduler = self._scheduler
        return IntegrityReport(
            call_id=call_id,
            problems=scheduler.problems(),
            blocks=scheduler.cache.pool.counts(),
            leases=scheduler.leases,
            pulls=scheduler.pulls,
            requests=len(scheduler.requests),
        )

    def _sleep_s(self) -> float:
        longest = min(HOUSEKEEPING_S, self._stats_interval_s)
        if self._end_at is None or self._leaves_ranks:
            return longest
        return max(0.0, min(longest, self._end_at - self._clock()))

"""The life of a fleet of child processes, with no I/O: events and the time in, commands out.

`up.py` starts the processes, reads their output and the clock, and feeds it all to a `Supervisor`.

    STARTING --fleet ready--> SERVING --interrupt--> DRAINING --all ended--> FINISHED
    STARTING --a child ends--> FAILING --all ended--> FINISHED (status 1)
    any      --second interrupt, or a drain that takes too long--> everything is killed

    1. Workers start on free ports; each tells its address.
    2. Once all addresses are known the proxy starts with them, and its readiness is watched.
    3. While serving, a child that ends is started again on its address, after a pause that doubles.
    4. Ranks join groups and leave them (`rank_changes.py`); one that has left is not started again.
    5. An interrupt stops the proxy first, so that no request enters; then the workers.
"""

import enum
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from .child_events import ChildEvent, Fatal, Left, Listening, Loading, Other, Ready, Stays
from .fleet import kind_of
from .fleet_messages import (
    AddRank,
    Address,
    Answer,
    ChildKind,
    Command,
    Event,
    Exited,
    Finish,
    Interrupted,
    List,
    Printed,
    ReadinessSeen,
    RemoveRank,
    Said,
    Send,
    ShowFailure,
    ShowLine,
    ShowListening,
    ShowLoading,
    ShowNote,
    ShowReady,
    ShowServing,
    Spawn,
    Ticked,
    Unlisted,
    WatchReadiness,
)
from .rank_changes import RankChanges, Stage
from .rank_groups import RankGroups

LAST_LINES = 12
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
PATIENCE_S = 5.0
"""From this long after the proxy's start, what the fleet waits for is said."""
STEADY_S = 60.0
"""A child that lived this long starts over with the first pause."""


class ChildState(enum.Enum):
    """Where one child is in its life."""

    WAITING = "waiting"  # not started yet, or ended for good
    RUNNING = "running"
    PAUSING = "pausing"  # ended; starts again at `restart_at`


class FleetState(enum.Enum):
    """Where the fleet is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    FAILING = "failing"
    FINISHED = "finished"


@dataclass(slots=True)
class _Child:
    name: str
    kind: ChildKind
    state: ChildState = ChildState.WAITING
    address: Address | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    quick_ends: int = 0
    has_left: bool = False
    fatal: str | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))

    @property
    def is_running(self) -> bool:
        return self.state is ChildState.RUNNING


class Supervisor:
    """Decides what happens to a fleet of one proxy and its workers."""

    def __init__(
        self,
        workers: dict[str, ChildKind],
        *,
        drain_s: float,
        groups: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """Take names and kinds of the workers, and the names of each group of ranks by its port."""
        self.state = FleetState.STARTING
        self._workers = [_Child(name, kind) for name, kind in workers.items()]
        self._proxy = _Child("proxy", ChildKind.PROXY)
        self._children = {child.name: child for child in [*self._workers, self._proxy]}
        self._ranks = RankChanges(RankGroups(groups or {}))
        self._drain_s = drain_s
        self._interrupts = 0
        self._kill_at: float | None = None
        self._status = 0
        self._reason = ""

    def start(self, now: float) -> list[Command]:
        """Start every worker."""
        return [self._spawn(worker, now) for worker in self._workers]

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event at `now` (seconds on any monotonic clock) and return what to do."""
        match event:
            case Said():
                return self._on_said(self._children[event.name], event.event, now)
            case Printed():
                self._children[event.name].last_lines.append(event.line)
                return [ShowLine(name=event.name, line=event.line)]
            case Exited():
                return self._on_exited(self._children[event.name], event.status, now)
            case ReadinessSeen():
                return self._on_readiness(event, now)
            case Interrupted():
                return self._on_interrupt(now)
            case Ticked():
                return self._on_tick(now)
            case AddRank():
                return self._on_add(event, now)
            case RemoveRank():
                return self._on_remove(event)
            case Unlisted():
                return self._on_unlisted(event)

    @property
    def wake_at(self) -> float | None:
        """When the next `Ticked` is due."""
        pauses = [child.restart_at for child in self._children.values() if child.state is ChildState.PAUSING]
        deadlines = [self._kill_at] if self._kill_at is not None else []
        return min([*pauses, *deadlines], default=None)

    def _on_said(self, child: _Child, event: ChildEvent, now: float) -> list[Command]:
        match event:
            case Loading():
                return [ShowLoading(name=child.name, progress=event)]
            case Listening():
                return self._on_listening(child, Address(event.host, event.port), now)
            case Ready():
                return [ShowReady(name=child.name), *self._on_ready(child)]
            case Left():
                child.has_left = True
                return []
            case Stays():
                return self._on_stays(child, event.message)
            case Fatal():
                child.fatal = event.message
                return []
            case Other():
                return []

    def _on_listening(self, child: _Child, address: Address, now: float) -> list[Command]:
        child.address = address
        shown = ShowListening(name=child.name, address=address)
        if child is self._proxy:
            return [shown, *([WatchReadiness(address=address)] if self.state is FleetState.STARTING else [])]
        if self.state is not FleetState.STARTING or self._proxy.state is not ChildState.WAITING:
            return [shown]
        if any(worker.address is None for worker in self._workers):
            return [shown]
        return [shown, self._spawn(self._proxy, now)]

    def _on_readiness(self, seen: ReadinessSeen, now: float) -> list[Command]:
        if self.state is not FleetState.STARTING:
            return []
        if seen.ready and self._proxy.address is not None:
            self.state = FleetState.SERVING
            return [ShowServing(address=self._proxy.address)]
        if seen.reason in ("", self._reason) or now - self._proxy.started_at < PATIENCE_S:
            return []
        self._reason = seen.reason
        return [ShowNote(text=f"not ready yet: {seen.reason}")]

    def _on_exited(self, child: _Child, status: int, now: float) -> list[Command]:
        child.state = ChildState.WAITING
        reason = child.fatal or describe_exit(status)
        child.fatal = None
        if child.has_left or self._ranks.stage(child.name) is not None:
            return self._on_gone(child, reason)
        if self.state is FleetState.STARTING:
            return self._fail(child, reason, now)
        if self.state is FleetState.SERVING:
            return self._pause(child, reason, now)
        return self._after_drain_step(child)

    def _fail(self, child: _Child, reason: str, now: float) -> list[Command]:
        self.state = FleetState.FAILING
        self._status = 1
        # A longer reason repeats the log, whose end is shown below it.
        headline = reason.splitlines()[0] if reason else ""
        failure = ShowFailure(name=child.name, reason=headline, last_lines=tuple(child.last_lines))
        # Nothing is in flight before the fleet has served, so nobody needs a long drain.
        self._kill_at = now + min(self._drain_s, 5.0)
        return [failure, *self._stop_running(), *self._finish_if_empty()]

    def _pause(self, child: _Child, reason: str, now: float) -> list[Command]:
        child.quick_ends = 0 if now - child.started_at >= STEADY_S else child.quick_ends + 1
        pause_s = min(FIRST_PAUSE_S * 2 ** max(child.quick_ends - 1, 0), LONGEST_PAUSE_S)
        child.state = ChildState.PAUSING
        child.restart_at = now + pause_s
        where = f" on port {child.address.port}" if child.address else ""
        return [ShowNote(text=f"{child.name} ended ({reason}); starting it again{where} in {pause_s:g} s")]

    def _on_add(self, event: AddRank, now: float) -> list[Command]:
        refusal = self._change_refusal(event.beside, leaves=False)
        if refusal is not None:
            return [Answer(call=event.call, text=refusal, is_done=False)]
        kind = kind_of(event.beside)
        number = 1 + max(int(each.name.rpartition("-")[2]) for each in self._workers if each.kind is kind)
        child = _Child(f"{kind.value}-{number}", kind)
        self._workers.append(child)
        self._children[child.name] = child
        self._ranks.begin_join(event.call, child.name, event.beside)
        note = ShowNote(text=f"{child.name} is to join the ranks of {event.beside}")
        spawn = self._spawn(child, now)
        return [note, msgspec.structs.replace(spawn, join=self._children[event.beside].address)]

    def _on_remove(self, event: RemoveRank) -> list[Command]:
        refusal = self._change_refusal(event.name, leaves=True)
        if refusal is not None:
            return [Answer(call=event.call, text=refusal, is_done=False)]
        note = ShowNote(text=f"{event.name} is to leave its ranks, once the proxy needs it no longer")
        return [note, *self._ranks.begin_leave(event.call, event.name)]

    def _change_refusal(self, name: str, *, leaves: bool) -> str | None:
        child = self._children.get(name)
        if self.state is not FleetState.SERVING:
            return f"the fleet is {self.state.value}"
        if child is None or child is self._proxy:
            return f"there is no worker {name}"
        refusal = self._ranks.refusal(name, leaves=leaves)
        if refusal is None and any(not each.is_running for each in self._mates(name)):
            return f"the group of {name} is starting again"
        return refusal

    def _on_ready(self, child: _Child) -> list[Command]:
        """Count a newcomer in, unless those it joined have ended since: then it ends, too."""
        if self._ranks.stage(child.name) is not Stage.JOINING or child.address is None:
            return []
        if any(not each.is_running or each.started_at > child.started_at for each in self._mates(child.name)):
            return []
        return self._ranks.on_joined(List(name=child.name, address=child.address))

    def _on_unlisted(self, event: Unlisted) -> list[Command]:
        if self._ranks.stage(event.name) is not Stage.UNLISTING:
            return []
        commands = self._ranks.on_unlisted(event.problem)
        if event.problem is not None or self.state is not FleetState.SERVING:
            return commands
        return [*commands, Send(name=event.name, signal=signal.SIGUSR1)]

    def _on_stays(self, child: _Child, reason: str) -> list[Command]:
        if self.state is FleetState.DRAINING:
            return [Send(name=child.name, signal=signal.SIGTERM)]
        if self._ranks.stage(child.name) is None or child.address is None:
            return [ShowNote(text=f"{child.name} stays: {reason}")]
        return self._ranks.on_stays(reason, [List(name=child.name, address=child.address)])

    def _on_gone(self, child: _Child, reason: str) -> list[Command]:
        self._workers.remove(child)
        del self._children[child.name]
        commands = self._ranks.on_gone(child.name, None if child.has_left else reason)
        return commands if self.state is FleetState.SERVING else [*commands, *self._after_drain_step(child)]

    def _mates(self, name: str) -> list[_Child]:
        return [self._children[mate] for mate in self._ranks.mates(name)]

    def _on_interrupt(self, now: float) -> list[Command]:
        self._interrupts += 1
        if self._interrupts > 1 or self.state is FleetState.FAILING:
            return self._kill_running()
        self.state = FleetState.DRAINING
        self._kill_at = now + self._drain_s
        for child in self._children.values():
            if child.state is ChildState.PAUSING:
                child.state = ChildState.WAITING
        note = ShowNote(text="draining: requests in flight are finished first; Ctrl-C again ends them now")
        return [note, *self._stop_next(), *self._finish_if_empty()]

    def _after_drain_step(self, child: _Child) -> list[Command]:
        if self.state is FleetState.DRAINING and child is self._proxy:
            return [*self._stop_running(), *self._finish_if_empty()]
        return self._finish_if_empty()

    def _on_tick(self, now: float) -> list[Command]:
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            return [ShowNote(text="the drain takes too long: ending what is left"), *self._kill_running()]
        return [
            self._spawn(child, now)
            for child in self._children.values()
            if child.state is ChildState.PAUSING and now >= child.restart_at
        ]

    def _spawn(self, child: _Child, now: float) -> Spawn:
        child.state = ChildState.RUNNING
        child.started_at = now
        child.last_lines.clear()
        if child is self._proxy:
            return Spawn(name=child.name, address=child.address, workers=self._listed())
        return Spawn(name=child.name, address=child.address, place=self._ranks.place(child.name))

    def _listed(self) -> dict[str, Address]:
        """The workers that the proxy should know."""
        known = [worker for worker in self._workers if self._ranks.stage(worker.name) is None]
        return {worker.name: worker.address for worker in known if worker.address is not None}

    def _stop_next(self) -> list[Command]:
        if self._proxy.state is ChildState.RUNNING:
            return [Send(name=self._proxy.name, signal=signal.SIGTERM)]
        return self._stop_running()

    def _stop_running(self) -> list[Command]:
        leaving = [child for child in self._running() if self._ranks.stage(child.name) is Stage.LEAVING]
        stopped = [child for child in self._running() if child not in leaving]  # those end by themselves
        return [Send(name=child.name, signal=signal.SIGTERM) for child in stopped]

    def _kill_running(self) -> list[Command]:
        return [Send(name=child.name, signal=signal.SIGKILL) for child in self._running()]

    def _running(self) -> list[_Child]:
        return [child for child in self._children.values() if child.state is ChildState.RUNNING]

    def _finish_if_empty(self) -> list[Command]:
        if self._running():
            return []
        self.state = FleetState.FINISHED
        self._kill_at = None
        return [Finish(status=self._status)]


def describe_exit(status: int) -> str:
    """Say how a process ended, e.g. `exit status 3` or `killed by SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    return f"killed by {signal.Signals(-status).name}"

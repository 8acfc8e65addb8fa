"""The life of a fleet of child processes, with no I/O: events and the time in, commands out.

`up.py` starts the processes, reads their output and the clock, and feeds it all to a `Supervisor`.

    STARTING --fleet ready--> SERVING --interrupt--> DRAINING --all ended--> FINISHED
    STARTING --a child ends--> FAILING --all ended--> FINISHED (status 1)
    any      --second interrupt, or a drain that takes too long--> everything is killed

    1. Workers start on free ports; each tells its address.
    2. Once all addresses are known the proxy starts with them, and its readiness is watched.
    3. While serving, a child that ends is started again on its address, after a pause that doubles.
    4. An interrupt stops the proxy first, so that no request enters; then the workers.
"""

import enum
import signal
from collections import deque
from dataclasses import dataclass, field

from .child_events import ChildEvent, Fatal, Listening, Loading, Other, Ready
from .fleet_messages import (
    Address,
    ChildKind,
    Command,
    Event,
    Exited,
    Finish,
    Interrupted,
    Printed,
    ReadinessSeen,
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
    WatchReadiness,
)

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
    fatal: str | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))


class Supervisor:
    """Decides what happens to a fleet of one proxy and its workers."""

    def __init__(self, workers: dict[str, ChildKind], *, drain_s: float) -> None:
        self.state = FleetState.STARTING
        self._workers = [_Child(name, kind) for name, kind in workers.items()]
        self._proxy = _Child("proxy", ChildKind.PROXY)
        self._children = {child.name: child for child in [*self._workers, self._proxy]}
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
                return [ShowReady(name=child.name)]
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
        workers = {worker.name: worker.address for worker in self._workers if worker.address is not None}
        return Spawn(name=child.name, address=child.address, workers=workers if child is self._proxy else {})

    def _stop_next(self) -> list[Command]:
        if self._proxy.state is ChildState.RUNNING:
            return [Send(name=self._proxy.name, signal=signal.SIGTERM)]
        return self._stop_running()

    def _stop_running(self) -> list[Command]:
        return [Send(name=child.name, signal=signal.SIGTERM) for child in self._running()]

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

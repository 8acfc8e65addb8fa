"""Watches every worker: who is up, who was restarted, and that every pair shakes hands before it is used.

One task a worker. The fleet keeps what is seen; a worker enters rotation when its handshakes were tried.
"""

import asyncio
import logging

from .config import Probing
from .control import ControlError, RefusedError, WorkerControl
from .routing.fleet import Fleet, Worker, WorkerState

logger = logging.getLogger(__name__)


class Prober:
    """Looks at workers, in turns of their own."""

    def __init__(
        self,
        fleet: Fleet,
        controls: dict[str, WorkerControl],
        probing: Probing,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._fleet = fleet
        self._controls = controls
        self._probing = probing
        self._tasks = tasks
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._wake: dict[str, asyncio.Event] = {}
        self._backoff_s: dict[str, float] = {}
        self._failures: dict[tuple[str, str], str] = {}
        """Why a pair that could hand KV over may not: (prefill, decode) -> reason. Each is logged once."""
        self.changed = asyncio.Event()
        """Set after every look."""

    def watch(self, worker: Worker) -> None:
        """Look at `worker` again and again."""
        self._wake[worker.name] = asyncio.Event()
        self._backoff_s[worker.name] = self._probing.backoff_first_s
        task = self._tasks.create_task(self._watch(worker), name=f"probe {worker.name}")
        self._watches[worker.name] = task

    def unwatch(self, worker: Worker) -> None:
        """Look at it no more."""
        self._watches.pop(worker.name).cancel()
        del self._wake[worker.name], self._backoff_s[worker.name]
        self._failures = {pair: why for pair, why in self._failures.items() if worker.name not in pair}
        self.changed.set()

    def stop(self) -> None:
        """Look at nobody any more."""
        for task in self._watches.values():
            task.cancel()

    def probe(self, worker: Worker) -> None:
        """Look at `worker` as soon as possible, if it is still watched."""
        wake = self._wake.get(worker.name)
        if wake is not None:
            wake.set()

    async def _watch(self, worker: Worker) -> None:
        wake = self._wake[worker.name]
        while True:
            wake.clear()
            await self._look(worker)
            self.changed.set()
            try:
                async with asyncio.timeout(self._pause_s(worker)):
                    await wake.wait()
            except TimeoutError:
                pass  # time for the next look

    def _pause_s(self, worker: Worker) -> float:
        if worker.state is WorkerState.READY:
            self._backoff_s[worker.name] = self._probing.backoff_first_s
            return self._probing.interval_s
        pause_s = self._backoff_s[worker.name]
        self._backoff_s[worker.name] = min(pause_s * 2, self._probing.backoff_longest_s)
        return pause_s

    async def _look(self, worker: Worker) -> None:
        before = worker.state, worker.sighting.incarnation
        now = asyncio.get_running_loop().time
        try:
            seen = await self._controls[worker.name].look()
        except RefusedError as error:
            self._fleet.unreachable(worker, str(error), now())
        except ControlError as error:
            self._fleet.missed(worker, str(error), now())
        else:
            self._fleet.sighted(worker, seen, now())
            await self._introduce(worker)
            self._fleet.joined(worker, now())
        if before != (worker.state, worker.sighting.incarnation):
            reason = f" ({worker.reason})" if worker.reason else ""
            logger.info("worker %s is %s%s", worker.name, worker.state.value, reason)

    async def _introduce(self, worker: Worker) -> None:
        """Have every pair that `worker` makes with a present one shake hands, unless it has."""
        present = (WorkerState.JOINING, WorkerState.READY)
        if worker.state not in present:
            return
        others = [other for other in self._fleet.workers.values() if other.state in present]
        pairs = [(worker, other) for other in others] + [(other, worker) for other in others]
        due = [pair for pair in pairs if self._fleet.needs_handshake(*pair)]
        async with asyncio.TaskGroup() as hands:
            for prefill, decode in due:
                hands.create_task(self._shake(prefill, decode), name=f"{decode.name} meets {prefill.name}")

    async def _shake(self, prefill: Worker, decode: Worker) -> None:
        pair = (prefill.name, decode.name)
        kv, control = prefill.sighting.kv, self._controls.get(decode.name)
        if kv is None or control is None:
            return
        incarnations = (prefill.sighting.incarnation, decode.sighting.incarnation)
        problem: str | None = None
        try:
            await control.shake_hands(kv)
        except ControlError as error:
            problem = str(error)
        if any(self._fleet.workers.get(worker.name) is not worker for worker in (prefill, decode)):
            return  # one was removed meanwhile; another may have its name
        if problem is not None:
            if self._failures.get(pair) != problem:
                logger.warning("%s could not shake hands with %s: %s", decode.name, prefill.name, problem)
            self._failures[pair] = problem
        elif incarnations == (prefill.sighting.incarnation, decode.sighting.incarnation):
            self._failures.pop(pair, None)
            self._fleet.shaken(prefill, decode)

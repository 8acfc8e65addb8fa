"""Tells workers to drop requests that nobody waits for any more, and sees to it that they heard.

Until a worker has confirmed, the ledger holds the KV as being released and the request's id stays taken.
"""

import asyncio
import logging

from .control import ControlError, RefusedError, WorkerControl
from .routing.commands import Abort
from .routing.fleet import Kind
from .routing.ledger import HandoverEvent
from .routing.router import Router

logger = logging.getLogger(__name__)

PAUSES_S = (0.1, 0.5, 2.0)
"""Between attempts; after the last one the worker's own lease ends what is left."""


class Reaper:
    """Sends aborts, each in a task of its own."""

    def __init__(self, router: Router, controls: dict[str, WorkerControl], tasks: asyncio.TaskGroup) -> None:
        self._router = router
        self._controls = controls
        self._tasks = tasks
        self._pending: set[asyncio.Task[None]] = set()
        self.given_up = 0
        """Aborts that no worker confirmed."""

    def __len__(self) -> int:
        return len(self._pending)

    def abort(self, command: Abort) -> None:
        """Have `command.worker` drop the request."""
        if command.worker.kind is Kind.VLLM:
            self._done(command)  # it notices the closed connection; its lease expires by itself
            return
        control = self._controls.get(command.worker.name)
        if control is None:
            self._done(command)  # it was removed
            return
        task = self._tasks.create_task(self._send(command, control), name=f"abort {command.wire_id}")
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def settle(self, timeout_s: float) -> None:
        """Wait until all aborts are done, or cancel those that are not by then."""
        if self._pending:
            _, late = await asyncio.wait(self._pending, timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _send(self, command: Abort, control: WorkerControl) -> None:
        try:
            for pause_s in (*PAUSES_S, None):
                try:
                    await control.abort(command.wire_id)
                except RefusedError:
                    return  # the process is gone, and what it held with it
                except ControlError as error:
                    if pause_s is None:
                        self.given_up += 1
                        logger.warning("abort of %s on %s: %s", command.wire_id, command.worker.name, error)
                        return
                else:
                    return
                await asyncio.sleep(pause_s)
        finally:
            self._done(command)

    def _done(self, command: Abort) -> None:
        if command.releases:
            self._router.ledger.on(command.wire_id, HandoverEvent.RELEASED)
        self._router.ids.release(command.wire_id)

"""The one thread that owns a transport, and how others talk to it.

It sleeps on a queue. While reads are in flight, or a peer has asked to be served, it polls: at once after a
post, then in steps that back off from 0.1 ms to 1 ms. Otherwise it wakes once a second, so that connections
that broke or opened meanwhile are noticed.

Callbacks run in this thread: they must only hand the outcome over.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from .transports.base import ReadOutcome, Transport, TransportError, TransportFactory

IDLE_TICK_S = 1.0
FIRST_PAUSE_S = 0.0001
LONGEST_PAUSE_S = 0.001

T = TypeVar("T")
Work = Callable[[], None]
logger = logging.getLogger(__name__)


class TransferThread:
    """Runs one transport. Every method may be called from any thread."""

    def __init__(self, factory: TransportFactory, incarnation: str) -> None:
        self._factory = factory
        self._incarnation = incarnation
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._on_done: dict[int, Callable[[ReadOutcome], None]] = {}
        self._next_read_id = 0
        self._serve_until = 0.0
        self._stop_at: float | None = None
        self._transport: Transport | None = None
        self._thread = threading.Thread(target=self._run, name="kv-transfer", daemon=True)

    def start(self) -> None:
        """Create the transport in its thread. Raises what its constructor raises."""
        started: Future[None] = Future()
        self._work.put(lambda: self._create(started))
        self._thread.start()
        started.result()

    @property
    def needs_polling(self) -> bool:
        """Whether the transport moves only while it is polled."""
        return self._transport is not None and self._transport.needs_polling

    def call(self, function: Callable[[Transport], T]) -> Future[T]:
        """Run `function` on the transport, in its thread; the future's callbacks run there too."""
        future: Future[T] = Future()
        self._work.put(lambda: self._answer(future, function))
        return future

    def read(
        self,
        peer: str,
        remote_block_ids: Sequence[int],
        local_block_ids: Sequence[int],
        on_done: Callable[[ReadOutcome], None],
    ) -> None:
        """Post a read; `on_done` is called once, when it is terminal or was refused before it began."""
        self._work.put(lambda: self._read(peer, remote_block_ids, local_block_ids, on_done))

    def serve(self, seconds: float) -> None:
        """Keep moving for the sake of peers that read us, for at least this long from now."""
        self._serve_until = max(self._serve_until, time.monotonic() + seconds)
        self._work.put(None)

    def wake(self) -> None:
        """Look at the transport soon; for transports that need no polling."""
        self._work.put(None)

    def close(self, grace_s: float) -> None:
        """Stop when nothing is in flight; after `grace_s`, leave the transport to the end of the process."""
        self._work.put(lambda: self._stop(grace_s))
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            worked = self._do_work(self._wait_s(pause_s))
            if self._transport is None:
                return
            finished = self._poll(self._transport)
            pause_s = FIRST_PAUSE_S if worked or finished else min(2 * pause_s, LONGEST_PAUSE_S)
            if self._stop_at is not None and (not self._on_done or time.monotonic() >= self._stop_at):
                self._end(self._transport)
                return

    def _wait_s(self, pause_s: float) -> float:
        """Return how long to sleep if nobody asks for anything."""
        serving = time.monotonic() < self._serve_until
        if self.needs_polling and (self._on_done or serving):
            return pause_s
        if self._stop_at is None:
            return IDLE_TICK_S
        return max(0.0, self._stop_at - time.monotonic()) if self._on_done else 0.0

    def _do_work(self, wait_s: float) -> bool:
        """Sleep until there is work or the time is up, then do what is queued."""
        worked = False
        try:
            work = self._work.get(timeout=wait_s)
            while True:
                if work is not None:
                    work()
                    worked = True
                work = self._work.get_nowait()
        except queue.Empty:
            return worked

    def _create(self, started: "Future[None]") -> None:
        try:
            self._transport = self._factory(self._incarnation, self.wake)
        except Exception as error:
            started.set_exception(error)
        else:
            started.set_result(None)

    def _answer(self, future: "Future[T]", function: Callable[[Transport], T]) -> None:
        assert self._transport is not None
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function(self._transport)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _read(
        self,
        peer: str,
        remote_block_ids: Sequence[int],
        local_block_ids: Sequence[int],
        on_done: Callable[[ReadOutcome], None],
    ) -> None:
        assert self._transport is not None
        self._next_read_id += 1
        read_id = self._next_read_id
        self._on_done[read_id] = on_done
        try:
            self._transport.read(read_id, peer, remote_block_ids, local_block_ids)
        except TransportError as error:
            del self._on_done[read_id]
            now = time.monotonic()
            on_done(ReadOutcome(read_id=read_id, done_at=now, post_s=0.0, error=str(error)))
            return
        self._poll(self._transport)

    def _poll(self, transport: Transport) -> bool:
        """Hand over what became terminal; True if anything did."""
        try:
            outcomes = transport.poll()
        except TransportError:
            logger.exception("polling the transport failed; reads in flight stay in flight")
            return False
        for outcome in outcomes:
            self._on_done.pop(outcome.read_id)(outcome)
        return bool(outcomes)

    def _stop(self, grace_s: float) -> None:
        self._stop_at = time.monotonic() + grace_s

    def _end(self, transport: Transport) -> None:
        if self._on_done:
            logger.warning(
                "%d reads still in flight: the transport is left to the process", len(self._on_done)
            )
            transport.abandon()
        else:
            transport.close()

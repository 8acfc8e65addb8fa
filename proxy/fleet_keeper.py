"""Adds workers to a running proxy, drains them and removes them; what is in flight on them ends first.

add      listed; probed; in rotation once it is ready and has shaken hands
drain    out of rotation; streams go on, and KV that it holds can still be pulled
undrain  back in rotation, as if it had never been drained
remove   drained, then forgotten. After `worker_drain_s` its connections are cut: requests that the client
         has seen nothing of are tried elsewhere. KV that was pulled is no reason to stay
"""

import asyncio
import logging

import aiohttp

from .config import WorkerAddress
from .control import WorkerControl
from .discovery.roster import Changes
from .hub import Hub
from .kv_event_source import KvEventAddress, KvEventSource, KvEventsUnavailableError
from .prober import Prober
from .routing.fleet import Kind, KvAddress, Worker
from .upstream import Pool, TcpAddress

logger = logging.getLogger(__name__)

LOOK_S = 0.05
"""Between looks at whether a worker has ended what it had."""
CUT_S = 15.0
"""How long what was cut may take to be settled: longer than the reaper tries."""


class FleetKeeper:
    """The workers of one proxy."""

    def __init__(
        self,
        hub: Hub,
        prober: Prober,
        controls: dict[str, WorkerControl],
        session: aiohttp.ClientSession,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._hub = hub
        self._prober = prober
        self._controls = controls
        self._session = session
        self._tasks = tasks
        self._addresses: dict[str, WorkerAddress] = {}
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._successors: dict[str, WorkerAddress] = {}
        """By title: whom to add once its namesake is gone."""
        self._kv_events: KvEventSource | None = None

    @property
    def urls(self) -> dict[str, str]:
        """Where each worker is."""
        return {title: address.url for title, address in self._addresses.items()}

    def find(self, title: str) -> Worker | None:
        """Return the worker of that name."""
        return self._hub.router.fleet.workers.get(title)

    def add(self, address: WorkerAddress) -> None:
        """List a worker; if one of its name is being removed, as soon as that is done."""
        title, config = address.title, self._hub.config
        if title in self._addresses:
            self._successors[title] = address
            return
        control = WorkerControl(address, self._session, config.probing)
        pool = Pool(
            TcpAddress(address.host, address.port),
            self._tasks,
            self._hub.cork,
            connect_timeout_s=config.timeouts.connect_s,
            max_idle=config.limits.idle_connections,
        )
        self._addresses[title], self._controls[title], self._hub.pools[title] = address, control, pool
        worker = Worker(title, address.role, address.kind)
        if address.kind is Kind.SGLANG:
            worker.bootstrap = KvAddress(host=address.host, port=address.bootstrap_port)
        self._hub.router.fleet.add(worker)
        self._prober.watch(worker)
        if address.kv_events is not None:
            self._follow(title, address.kv_events)

    def drain(self, worker: Worker) -> None:
        """Send it nothing new."""
        if not worker.draining:
            logger.info("worker %s is being drained", worker.name)
            self._hub.router.fleet.drain(worker, self._hub.loop.time())

    def undrain(self, worker: Worker) -> bool:
        """Put it back; False: it is being removed."""
        if worker.name in self._removals:
            return False
        if worker.draining:
            logger.info("worker %s is put back", worker.name)
            self._hub.router.fleet.undrain(worker, self._hub.loop.time())
        return True

    def remove(self, worker: Worker) -> None:
        """Drain it, then forget it."""
        self.drain(worker)
        self._successors.pop(worker.name, None)
        if worker.name not in self._removals:
            task = self._tasks.create_task(self._remove(worker), name=f"remove {worker.name}")
            self._removals[worker.name] = task

    def told(self, changes: Changes) -> None:
        """Follow what the sources list."""
        for address in (*changes.removed, *changes.changed):
            worker = self.find(address.title)
            if worker is not None:
                self.remove(worker)
        for address in (*changes.changed, *changes.added):
            self.add(address)

    def is_idle(self, worker: Worker) -> bool:
        """Whether nothing is in flight on it and no KV of its is waiting to be pulled or released."""
        legs = worker.prefill_requests + worker.decode_requests
        return not legs and not self._hub.router.ledger.holds_for(worker.name)

    def stop(self) -> None:
        """Leave the workers to themselves: the proxy ends."""
        self._prober.stop()
        for task in self._removals.values():
            task.cancel()
        if self._kv_events is not None:
            self._kv_events.close()

    def _follow(self, title: str, address: KvEventAddress) -> None:
        try:
            if self._kv_events is None:
                self._kv_events = KvEventSource(self._hub.cache_use)
            self._kv_events.follow(title, address)
        except KvEventsUnavailableError as error:
            logger.warning("worker %s: %s", title, error)

    async def _remove(self, worker: Worker) -> None:
        name = worker.name
        if not await self._idle_within(self._hub.config.worker_drain_s, worker):
            logger.warning("worker %s is removed with requests on it", name)
            self._hub.pools[name].close()
            await self._idle_within(CUT_S, worker)
        self._prober.unwatch(worker)
        if self._kv_events is not None:
            self._kv_events.unfollow(name)
        self._hub.router.fleet.remove(worker, self._hub.loop.time())
        self._hub.pools.pop(name).close()
        del self._controls[name], self._addresses[name], self._removals[name]
        logger.info("worker %s is removed", name)
        successor = self._successors.pop(name, None)
        if successor is not None:
            self.add(successor)

    async def _idle_within(self, limit_s: float, worker: Worker) -> bool:
        """Wait until the worker is idle; False: it is not, after `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                while not self.is_idle(worker):  # noqa: ASYNC110  nothing tells of it
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return False
        return True

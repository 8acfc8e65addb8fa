"""One proxy process: builds the parts, listens, reports on stdout, drains at the end.

`run_proxy` is the command; `running_proxy` is the same in a loop that already runs. Standard output carries
one JSON object a line: `listening` with the address, `ready` when requests can be served, `fatal` when the
port cannot be had. Everything meant for people goes to standard error.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import aiohttp
import msgspec
import uvloop

from .admin import AdminApp, private_socket, serving_admin
from .admin_relay import AdminRelay
from .assembly import Parts, assemble, read_files
from .compiled import compiled_modules, outdated_modules
from .config import ConfigError, ProxyConfig
from .discovery.roster import Roster
from .discovery.sources import discover, source_of
from .front import ClientConnection, Clients, Serving
from .metrics import registry_of
from .readiness import is_complete, is_ready
from .request import ClientRequest
from .resumption import ResumableExchange
from .siblings.admin import sibling_calls
from .siblings.place import Place
from .siblings.supervisor import supervise

logger = logging.getLogger(__name__)

GC_ALLOCATIONS = 20_000
"""Objects that may come and stay before young ones are looked through."""
SETTLE_S = 5.0
"""How long the last aborts may take when the proxy stops."""


class ListenError(RuntimeError):
    """The port cannot be had."""


class Proxy:
    """A running proxy."""

    def __init__(self, parts: Parts) -> None:
        self.hub = hub = parts.hub
        self.prober = parts.prober
        self.reaper = parts.reaper
        self.keeper = parts.keeper
        self.links = parts.links
        self.clients = Clients(hub.cork)
        self.host = hub.config.host
        self.port = hub.config.port
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def accept(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new client connection."""
        config = self.hub.config
        client = ClientConnection(self._serve, self.clients, self.hub.watch, config.limits, config.timeouts)
        return cast(asyncio.BaseProtocol, client)

    def _serve(self, client: ClientConnection, request: ClientRequest) -> Serving:
        serving = ResumableExchange if request.is_completion else AdminRelay
        return serving(self.hub, client, request)

    async def listen(self, *, shared: bool = False) -> None:
        """Open the port, which other processes may listen on if it is `shared`. Raises `ListenError`."""
        try:
            self._server = await self.hub.loop.create_server(
                self.accept, self.host, self.port, backlog=4096, reuse_port=shared
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ListenError(f"cannot listen on {self.host}:{self.port}: {reason}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def until_ready(self, *, complete: bool = False) -> None:
        """Wait until requests can be served, or until every listed worker has joined."""
        holds = is_complete if complete else is_ready
        await self.until(lambda: holds(self.hub.router.fleet))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds`, which is asked again after every look at a worker."""
        while not holds():
            self.prober.changed.clear()
            await self.prober.changed.wait()

    def close(self) -> None:
        """Drop what is left."""
        self.hub.watch.close()
        self.hub.desk.close()
        self.hub.replays.close()
        if self.hub.native is not None:
            self.hub.native.close()
        for client in list(self.clients.open):
            client.transport.abort()
        for pool in (*self.hub.pools.values(), self.hub.admin_pool):
            pool.close()

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let answers finish for `grace_s`, end the others in good order, settle aborts."""
        self.hub.draining = True
        if self._server is not None:
            self._server.close()
        for client in list(self.clients.open):
            client.close_when_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.clients.all_left()
        self.hub.desk.turn_all_away()
        for exchange in list(self.hub.exchanges):
            exchange.shut_down()
        if self.links is not None:
            self.links.end_departed()
        await self.reaper.settle(SETTLE_S)
        for client in list(self.clients.open):
            client.transport.close()


@contextlib.asynccontextmanager
async def running_proxy(config: ProxyConfig, place: Place | None = None) -> AsyncIterator[Proxy]:
    """Run a proxy in the current loop; leaving the context drains it, with the configured grace.

    `place`: which of several processes it is. Raises `ConfigError` for a file that the configuration names.
    """
    files = await asyncio.to_thread(read_files, config, asyncio.get_running_loop().time())
    async with (
        private_socket(None if place is None else place.admin_socket) as (bound, path),
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        contextlib.AsyncExitStack() as stack,
        asyncio.TaskGroup() as tasks,
    ):
        proxy = Proxy(assemble(config, files, session, tasks, admin_socket=path, place=place))
        calls = None if place is None else await stack.enter_async_context(sibling_calls(place))
        admin = AdminApp(proxy.hub, proxy.keeper, registry_of(proxy.hub, proxy.reaper))
        app = admin.application(*([] if calls is None else [calls.middleware]))
        async with serving_admin(app, bound):
            for worker in config.workers:
                proxy.keeper.add(worker)
            if calls is not None:
                await calls.catch_up(calls.make_again)
            sources = [source_of(settings, session) for settings in config.discovery]
            listed = discover(sources, Roster(config.workers), proxy.keeper.told)
            watch = proxy.hub.policy_watch.run()
            background = [
                tasks.create_task(listed, name="discover workers"),
                tasks.create_task(watch, name="watch policy files"),
            ]
            if calls is not None:
                background.append(tasks.create_task(calls.run(), name="make calls again"))
            if proxy.links is not None:
                background.append(tasks.create_task(proxy.links.run(), name="hear of siblings"))
            try:
                await proxy.listen(shared=place is not None)
                yield proxy
                await proxy.drain(config.drain_grace_s)
            finally:
                for task in background:
                    task.cancel()
                proxy.keeper.stop()
                if proxy.links is not None:
                    proxy.links.close()
                proxy.close()


def run_proxy(config: ProxyConfig, place: Place | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises `SystemExit` when the port cannot be had."""
    who = "" if place is None else f" [{place.index}]"
    form = f"%(asctime)s{who} %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)
    _say_what_runs()
    if place is None and config.processes > 1:
        failure = uvloop.run(supervise(config, _report))
    else:
        failure = uvloop.run(_serve(config, place))
    if failure is not None:
        _report("fatal", message=failure)
        raise SystemExit(1)


def _say_what_runs() -> None:
    if compiled := compiled_modules():
        logger.info("%d modules run compiled", len(compiled))
    if outdated := outdated_modules():
        logger.warning("changed since they were compiled: %s: run `make compiled`", ", ".join(outdated))


async def _serve(config: ProxyConfig, place: Place | None) -> str | None:
    """Return what kept the proxy from starting, None after a drain."""
    failure: str | None = None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if place is not None:
        set_at_end(sys.stdin.fileno(), stop)
    try:
        async with running_proxy(config, place) as proxy, asyncio.TaskGroup() as tasks:
            spare_the_collector()
            _report("listening", host=proxy.host, port=proxy.port)
            reporter = tasks.create_task(_report_readiness(proxy), name="report readiness")
            await stop.wait()
            reporter.cancel()
            logger.info("draining: answers under way have %g s", config.drain_grace_s)
    except* (ListenError, ConfigError) as errors:
        failure = str(errors.exceptions[0])
    logger.info("stopped")
    return failure


def set_at_end(pipe: int, event: asyncio.Event) -> None:
    """Set `event` once a pipe has ended that nothing is ever written to."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(pipe)  # it stays readable
        event.set()

    loop.add_reader(pipe, ended)


def spare_the_collector() -> None:
    """Have garbage that refers to itself looked for less often, and not among what stays anyway.

    A request leaves no such garbage behind; looking for it took a tenth of the time that one costs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)


async def _report_readiness(proxy: Proxy) -> None:
    await proxy.until_ready()
    _report("ready")
    await proxy.until_ready(complete=True)
    logger.info("all workers have joined and all pairs have shaken hands")


def _report(event: str, **fields: Any) -> None:
    sys.stdout.write(msgspec.json.encode({"event": event, **fields}).decode() + "\n")
    sys.stdout.flush()

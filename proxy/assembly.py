"""Builds the parts of one proxy process and joins them; `server.py` runs them."""

import asyncio
import importlib
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from .admission_desk import AdmissionDesk
from .config import ConfigError, ProxyConfig, Timeouts
from .control import WorkerControl
from .cork import Cork
from .fleet_keeper import FleetKeeper
from .hub import Hub
from .native_relay import native_relay
from .policy_watch import PolicyWatch, open_courses
from .prober import Prober
from .reaper import Reaper
from .replay import Replays
from .routing.cache_use import CacheUse
from .routing.courses import Courses
from .routing.decision_log import DecisionLog
from .routing.fleet import Fleet, Worker
from .routing.ids import RequestIds
from .routing.load import WorkerFacts
from .routing.router import Router
from .routing.tenants import OPEN_HOUSE, Tenants
from .siblings.links import SiblingLinks
from .siblings.place import Place
from .siblings.publisher import Publisher
from .siblings.shadows import Shadows
from .tenant_file import read_tenant_file
from .turns import Turns
from .upstream import Pool, UnixAddress
from .watch import Watch

SWEEP_RANGE_S = (0.005, 0.25)
"""Shortest and longest pause between two looks at deadlines."""


@dataclass(frozen=True, slots=True)
class Files:
    """What the files say that a configuration names."""

    tenants: Tenants
    courses: Courses


@dataclass(frozen=True, slots=True)
class Parts:
    """What a proxy consists of beside its port and its clients."""

    hub: Hub
    prober: Prober
    reaper: Reaper
    keeper: FleetKeeper
    links: SiblingLinks | None
    """To the other processes of the same proxy."""


def read_files(config: ProxyConfig, now: float) -> Files:
    """Return what the files say. Raises `ConfigError` for one of them, or for a package that is missing."""
    known = OPEN_HOUSE if config.tenants_file is None else read_tenant_file(Path(config.tenants_file))
    if any(worker.kv_events is not None for worker in config.workers):
        try:
            importlib.import_module("zmq")
        except ImportError as error:
            raise ConfigError("workers: kv_events needs pyzmq: pip install pyzmq") from error
    return Files(Tenants(known), open_courses(config, now))


def assemble(
    config: ProxyConfig,
    files: Files,
    session: aiohttp.ClientSession,
    tasks: asyncio.TaskGroup,
    *,
    admin_socket: Path,
    place: Place | None,
) -> Parts:
    """Return the parts, joined; `place`: which of several processes this is."""
    loop = asyncio.get_running_loop()
    cork = Cork(loop)
    courses = files.courses
    fleet = Fleet(())
    log = DecisionLog(config.explained_requests, lambda model: courses.of(model).version)
    cache_use = CacheUse(courses)
    publisher = Publisher()
    router = Router(
        fleet,
        courses,
        config.limits.lost_attempts,
        (courses, log, cache_use, *(() if place is None else (publisher,))),
        config.admission if place is None else config.admission.share(place.count),
        ids=RequestIds() if place is None else RequestIds(place.id_suffix),
    )
    fleet.listeners.append(lambda worker, now: _describe(courses, worker))
    fleet.on_remove.append(courses.removed)
    controls: dict[str, WorkerControl] = {}
    prober = Prober(fleet, controls, config.probing, tasks)
    reaper = Reaper(router, controls, tasks)
    hub = Hub(
        config=config,
        loop=loop,
        router=router,
        desk=AdmissionDesk(router, loop),
        courses=courses,
        log=log,
        cache_use=cache_use,
        policy_watch=PolicyWatch(config, courses, log, fleet, loop.time),
        tenants=files.tenants,
        pools={},
        admin_pool=Pool(UnixAddress(admin_socket), tasks, cork, connect_timeout_s=5.0, max_idle=64),
        cork=cork,
        watch=Watch(loop, _sweep_s(config.timeouts)),
        abort=reaper.abort,
        probe=prober.probe,
        replays=Replays(config.limits.replay_bytes, loop),
        read_backs=Turns(loop),
        native=native_relay(loop),
    )
    links = None if place is None else _links(place, publisher, hub)
    keeper = FleetKeeper(hub, prober, controls, session, tasks)
    return Parts(hub, prober, reaper, keeper, links)


def _links(place: Place, publisher: Publisher, hub: Hub) -> SiblingLinks:
    learners = (hub.courses, hub.cache_use)

    def shadows() -> Shadows:
        return Shadows(hub.router, learners, hub.desk.release)

    return SiblingLinks(place, publisher, hub.router, hub.abort, shadows)


def _describe(courses: Courses, worker: Worker) -> None:
    seen = worker.sighting
    facts = WorkerFacts(
        kv_tokens_capacity=seen.kv_tokens_capacity,
        captured_batch_sizes=seen.captured_batch_sizes,
        lockstep_group=seen.lockstep_group,
    )
    courses.describe(worker, facts)


def _sweep_s(timeouts: Timeouts) -> float:
    """Return how often deadlines are looked at: a tenth of the shortest, within reason."""
    shortest: float = min(msgspec.structs.astuple(timeouts))
    low, high = SWEEP_RANGE_S
    return min(max(shortest / 10, low), high)

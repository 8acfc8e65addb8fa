"""What the parts of one proxy share: built once by `assembly.py`, handed to every connection."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .admission_desk import AdmissionDesk
from .config import ProxyConfig
from .cork import Cork
from .counters import Counters
from .native_relay import NativeRelay
from .policy_watch import PolicyWatch
from .replay import Replays
from .routing.cache_use import CacheUse
from .routing.commands import Abort
from .routing.courses import Courses
from .routing.decision_log import DecisionLog
from .routing.fleet import Worker
from .routing.router import Router
from .routing.tenants import Tenants
from .turns import Turns
from .upstream import Pool
from .watch import Watch


class Closable(Protocol):
    """Something that is being served."""

    def shut_down(self) -> None:
        """End it now, in good order."""
        ...


@dataclass
class Hub:
    """One proxy's shared parts."""

    config: ProxyConfig
    loop: asyncio.AbstractEventLoop
    router: Router
    desk: AdmissionDesk
    courses: Courses
    log: DecisionLog
    cache_use: CacheUse
    policy_watch: PolicyWatch
    tenants: Tenants
    pools: dict[str, Pool]
    """Connections to each worker, by its name."""
    admin_pool: Pool
    """Connections to the admin application."""
    watch: Watch
    cork: Cork
    """Holds what is written to clients and workers until the turn's end."""
    abort: Callable[[Abort], None]
    """Has a worker told to drop a request, without waiting for it."""
    probe: Callable[[Worker], None]
    """Has a worker looked at soon."""
    replays: Replays
    """Streams that can be continued when their worker dies."""
    read_backs: Turns
    """Streams that broke off, to be read back."""
    native: NativeRelay | None
    """Relays steady streams, where it was compiled."""
    now: Callable[[], float] = field(init=False)
    """Returns the time on the loop's clock."""
    counters: Counters = field(default_factory=Counters)
    exchanges: set[Closable] = field(default_factory=set)
    """Completions being served."""
    draining: bool = False

    def __post_init__(self) -> None:
        self.now = self.loop.time

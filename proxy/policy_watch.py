"""Policy files, read again when they change: checked, rehearsed on the last minutes' requests, then in force.

A file that cannot be used changes nothing: it is logged, counted, and named as the problem until it is
mended. Which policies there are to watch is the configuration's to say.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .config import ConfigError, PolicyReload, ProxyConfig, is_policy_file
from .routing.courses import DEFAULT, SHADOW, Course, Courses, Place, Rehearsal
from .routing.decision_log import DecisionLog
from .routing.fleet import Fleet
from .routing.policy_config import PolicyConfig
from .routing.policy_file import DEFAULTS, PolicyFileError, load_policy_file

logger = logging.getLogger(__name__)

AT_ONCE = 16
"""Requests rehearsed in one turn of the loop."""

Seen = tuple[int, int, int]


@dataclass(slots=True)
class ReloadCounts:
    """What happened since the start."""

    taken: int = 0
    refused: int = 0


@dataclass(slots=True)
class Watched:
    """One file."""

    path: Path
    place: Place
    looked_at: bool = False
    seen: Seen | None = None
    problem: str | None = None


def read_policy(source: str) -> PolicyConfig:
    """Return the policy of a name or a file. Raises `ConfigError`."""
    if not is_policy_file(source):
        return DEFAULTS[source]
    try:
        return load_policy_file(Path(source))
    except PolicyFileError as error:
        raise ConfigError(str(error)) from error


def places_of(config: ProxyConfig) -> dict[Place, str]:
    """Return all policies of a configuration by what they are for; the one for all models is the first."""
    places = {DEFAULT: config.policy}
    places |= {Place(model): source for model, source in config.model_policies.items()}
    return places if config.shadow_policy is None else places | {SHADOW: config.shadow_policy}


def open_courses(config: ProxyConfig, now: float) -> Courses:
    """Return the policies of a configuration, in force. Raises `ConfigError`."""
    courses = Courses(config.policy, read_policy(config.policy), now)
    for place, source in places_of(config).items():
        if place != DEFAULT:
            courses.put(place, courses.prepare(place, source, read_policy(source), now))
    return courses


class PolicyWatch:
    """The policy files of one proxy."""

    def __init__(
        self,
        config: ProxyConfig,
        courses: Courses,
        log: DecisionLog,
        fleet: Fleet,
        clock: Callable[[], float],
    ) -> None:
        self._settings: PolicyReload = config.policy_reload
        self._courses = courses
        self._log = log
        self._fleet = fleet
        self._clock = clock
        self._files = [
            Watched(Path(source), place)
            for place, source in places_of(config).items()
            if is_policy_file(source)
        ]
        self.counts = ReloadCounts()
        self.looked = asyncio.Event()
        """Set after every look at all files."""

    @property
    def problems(self) -> list[str]:
        """What is wrong with files whose last change was not taken over."""
        return [file.problem for file in self._files if file.problem is not None]

    async def run(self) -> None:
        """Watch until cancelled."""
        while self._files:
            await asyncio.sleep(self._settings.interval_s)
            for file in self._files:
                await self._look(file)
            self.looked.set()

    async def _look(self, file: Watched) -> None:
        seen = await asyncio.to_thread(_status, file.path)
        if seen == file.seen and file.looked_at:
            return
        read = await asyncio.to_thread(_read, file.path)
        if await asyncio.to_thread(_status, file.path) != seen:
            return  # it changed while it was read: the next look takes it
        file.seen, file.looked_at = seen, True
        if isinstance(read, ConfigError):
            self._refuse(file, str(read))
            return
        config = read
        in_force = dict(self._courses.in_force()).get(file.place)
        if in_force is not None and config == in_force.config:
            file.problem = None  # as it was read at the start, or before it went bad
            return
        course = self._courses.prepare(file.place, str(file.path), config, self._clock())
        rehearsal = await self._rehearse(course)
        if rehearsal.problem is not None:
            self._refuse(file, f"{file.path}: {rehearsal.problem}")
            return
        # What it learned of the rehearsal, such as whose turn it is, is left behind.
        self._courses.put(
            file.place, self._courses.prepare(file.place, str(file.path), config, self._clock())
        )
        file.problem = None
        self.counts.taken += 1
        logger.info(
            "%s is in force as %s; of the last %d requests it would have sent %d to the same workers",
            file.path, course.version, rehearsal.requests, rehearsal.same,
        )  # fmt: skip

    async def _rehearse(self, course: Course) -> Rehearsal:
        requests = iter(
            self._log.recent(self._clock() - self._settings.rehearsed_s)[-self._settings.rehearsed_requests :]
        )
        count = same = 0
        while some := list(islice(requests, AT_ONCE)):
            part = self._courses.rehearse(course, some, self._fleet, self._clock())
            count, same = count + part.requests, same + part.same
            if part.problem is not None:
                return Rehearsal(count, same, part.problem)
            await asyncio.sleep(0)
        return Rehearsal(count, same)

    def _refuse(self, file: Watched, problem: str) -> None:
        file.problem = problem
        self.counts.refused += 1
        logger.warning("%s; the policy before it stays in force", problem)


def _read(path: Path) -> PolicyConfig | ConfigError:
    try:
        return read_policy(str(path))
    except ConfigError as error:
        return error


def _status(path: Path) -> Seen | None:
    """Return what changes with a file; None while it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size

"""The interface of a source of workers, and the task that runs several and tells the fleet's owner."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, assert_never

import aiohttp

from ..config import WorkerAddress
from .dns_source import DnsSource
from .file_source import FileSource
from .kubernetes_source import KubernetesSource
from .roster import Changes, Roster
from .settings import DiscoverySettings, DnsSettings, FileSettings, KubernetesSettings

logger = logging.getLogger(__name__)

Found = Callable[[Sequence[WorkerAddress]], None]
"""Takes the full list of one source; told at least whenever it has changed."""


class Source(Protocol):
    """Somewhere that workers are listed."""

    name: str
    """For logs and reports."""

    @property
    def problem(self) -> str | None:
        """Why the last look failed; None when it did not. The list before it stands."""
        ...

    async def run(self, found: Found) -> None:
        """Tell `found` of the workers until cancelled. Fails for no outside reason."""
        ...


def source_of(settings: DiscoverySettings, session: aiohttp.ClientSession) -> Source:
    """Return the source that `settings` describe; it opens nothing before it runs."""
    match settings:
        case FileSettings():
            return FileSource(settings)
        case DnsSettings():
            return DnsSource(settings)
        case KubernetesSettings():
            return KubernetesSource(settings, session)
        case _:
            assert_never(settings)


async def discover(sources: Iterable[Source], roster: Roster, told: Callable[[Changes], None]) -> None:
    """Run all sources until cancelled; `told` gets what changed, never an empty change."""

    def listener(source: Source) -> Found:
        def found(workers: Sequence[WorkerAddress]) -> None:
            changes = roster.update(source.name, workers)
            if changes:
                logger.info(
                    "%s: %d workers added, %d removed, %d changed",
                    source.name, len(changes.added), len(changes.removed), len(changes.changed),
                )  # fmt: skip
                told(changes)

        return found

    async with asyncio.TaskGroup() as tasks:
        for source in sources:
            tasks.create_task(source.run(listener(source)), name=f"discover {source.name}")

"""Runs a source beside a test, which takes what it finds, and what it warns of, one at a time."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence

from baton.proxy.config import WorkerAddress
from baton.proxy.discovery.sources import Source


class Lists:
    """What a source found, in order."""

    def __init__(self) -> None:
        self._found: asyncio.Queue[list[str]] = asyncio.Queue()

    def take(self, workers: Sequence[WorkerAddress]) -> None:
        self._found.put_nowait([worker.title for worker in workers])

    @property
    def waiting(self) -> int:
        return self._found.qsize()

    async def next(self) -> list[str]:
        """Return the titles of the next list."""
        async with asyncio.timeout(20):
            return await self._found.get()

    async def until(self, titles: list[str]) -> None:
        """Wait for a list; those before it may be repetitions or steps on the way."""
        while await self.next() != titles:
            pass


@contextlib.asynccontextmanager
async def running(source: Source) -> AsyncIterator[Lists]:
    lists = Lists()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(source.run(lists.take), name="source")
        yield lists
        task.cancel()


class Warnings(logging.Handler):
    """The troubles that were logged, in order."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.put_nowait(record.getMessage())

    async def next(self) -> str:
        async with asyncio.timeout(20):
            return await self._heard.get()


@contextlib.contextmanager
def heard_warnings() -> Iterator[Warnings]:
    logger, handler = logging.getLogger("baton.proxy.discovery.trouble"), Warnings()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)

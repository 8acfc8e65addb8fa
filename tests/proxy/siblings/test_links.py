"""A sibling's requests are ended for it only when it is dead, not when it was cut off and is back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from baton.proxy.routing.commands import Abort
from baton.proxy.routing.policy import Decision
from baton.proxy.routing.view import RequestView
from baton.proxy.siblings.departures import BACK_WITHIN_S, Departures
from baton.proxy.siblings.links import MOST_WAITING_BYTES, SiblingLinks
from baton.proxy.siblings.place import Place

from .test_shadows import Process, fleet

WORKER = fleet().workers["d0"]
ABORTS = [Abort(WORKER, "r", releases=False)]


class Sent:
    """What would be sent to workers."""

    def __init__(self) -> None:
        self.aborts: list[str] = []

    def abort(self, command: Abort) -> None:
        self.aborts.append(command.wire_id)


class Linked(Process):
    """The routing of one process, and its sockets."""

    def __init__(self, folder: Path, index: int) -> None:
        super().__init__()
        self.sent = Sent()
        place = Place(index=index, count=2, folder=folder)
        self.links = SiblingLinks(place, self.publisher, self.router, self.sent.abort, lambda: self.shadows)

    async def hears_of(self, requests: int) -> None:
        """Wait until a sibling is heard, and so many requests of it."""
        while not self.links.incoming or len(self.shadows) != requests:
            self.links.heard.clear()
            await self.links.heard.wait()


@contextlib.asynccontextmanager
async def linked(*processes: Linked) -> AsyncIterator[None]:
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.links.run()) for each in processes]
        try:
            yield
        finally:
            for task, each in zip(running, processes, strict=True):
                task.cancel()
                each.links.close()


async def test_a_live_sibling_that_was_cut_off_keeps_its_requests(tmp_path: Path) -> None:
    here, there = Linked(tmp_path, 0), Linked(tmp_path, 1)
    async with linked(here, there):
        here.request()
        await there.hears_of(1)
        before = there.links.incoming[0]
        before.transport.pause_reading()  # it is busy, and lets too much wait
        much = RequestView("much", "m", 1, 1, session=bytes(MOST_WAITING_BYTES * 2))
        here.publisher.dispatched(much, Decision(WORKER, None), 0.0)
        here.links.flush()
        here.publisher.ended(much, output_tokens=None, now=0.0)
        here.links.flush()
        before.transport.resume_reading()
        while there.links.incoming.get(0) in (None, before):
            there.links.heard.clear()
            await there.links.heard.wait()
        await there.hears_of(1)

        assert (there.sent.aborts, len(there.links.departures)) == ([], 0)
        assert there.booked() == here.booked()


async def test_a_sibling_that_stays_away_has_its_requests_ended(tmp_path: Path) -> None:
    here, there = Linked(tmp_path, 0), Linked(tmp_path, 1)
    async with linked(there):
        async with linked(here):
            life = here.request()
            await there.hears_of(1)
        while there.links.incoming:
            there.links.heard.clear()
            await there.links.heard.wait()
        assert there.sent.aborts == []
        there.links.end_departed()

    assert set(there.sent.aborts) == {life.wire_id}
    assert there.router.counts.orphans == 1


def test_what_would_end_a_siblings_requests_waits_for_it_to_be_back() -> None:
    departures = Departures()
    departures.left(0, "run", ABORTS, now=5.0)

    assert departures.overdue(now=5.0 + BACK_WITHIN_S - 0.001) == []
    assert departures.overdue(now=5.0 + BACK_WITHIN_S) == ABORTS
    assert departures.overdue(now=99.0) == []


def test_a_process_that_is_back_has_its_requests_still() -> None:
    departures = Departures()
    departures.left(0, "run", ABORTS, now=5.0)

    assert departures.heard(0, "run") == []
    assert departures.overdue(now=99.0) == []


def test_a_successor_shows_that_its_predecessor_is_dead() -> None:
    departures = Departures()
    departures.left(0, "run", ABORTS, now=5.0)

    assert departures.heard(0, "another run") == ABORTS
    assert departures.overdue(now=99.0) == []

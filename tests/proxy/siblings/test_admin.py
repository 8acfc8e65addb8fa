"""What all processes are asked is answered for those that answer, and nobody's silence counts as idleness."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from baton.proxy.admin import private_socket, serving_admin
from baton.proxy.siblings.admin import SiblingCalls, sibling_calls
from baton.proxy.siblings.place import Place

FLEET = {"workers": [{"name": "w", "handover_tokens": 3}], "handovers": {"granted": 1}}
DRAIN = "/admin/workers/w/drain"


class Sibling:
    """The admin application of one process; `faults` are the statuses of its next answers, 0: none."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults: deque[int] = deque()

    async def answer(self, request: web.Request) -> web.Response:
        if self.faults:
            status = self.faults.popleft()
            if not status:
                assert request.transport is not None
                request.transport.abort()
            return web.Response(status=status or 500, body=b'{"error": {}}')
        self.calls.append(f"{request.method} {request.path}")
        body: Any = FLEET if request.path == "/fleet" else {"name": "w", "idle": True}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")


@contextlib.asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[Sibling, SiblingCalls, aiohttp.ClientSession]]:
    """Run process 0 and its sibling; yield the sibling, and the calls and a client of process 0."""
    here = Place(index=0, count=2, folder=folder)
    [there] = here.others
    sibling = Sibling()
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
        calls = await stack.enter_async_context(sibling_calls(here))
        for place, application, middlewares in (
            (here, Sibling(), [calls.middleware]),
            (there, sibling, []),
        ):
            app = web.Application(middlewares=middlewares)
            app.router.add_route("*", "/{path:.*}", application.answer)
            bound, _ = await stack.enter_async_context(private_socket(place.admin_socket))
            await stack.enter_async_context(serving_admin(app, bound))
        connector = aiohttp.UnixConnector(str(here.admin_socket))
        session = aiohttp.ClientSession("http://here", connector=connector)
        yield sibling, calls, await stack.enter_async_context(session)


async def call(session: aiohttp.ClientSession, method: str, path: str) -> Any:
    async with session.request(method, path) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_a_worker_is_idle_only_if_every_process_says_so(tmp_path: Path) -> None:
    async with two(tmp_path) as (sibling, _, session):
        all_told = await call(session, "POST", DRAIN)
        sibling.faults.append(404)
        unknown_there = await call(session, "POST", DRAIN)
        sibling.faults.append(0)
        silent = await call(session, "POST", DRAIN)

    told = [(each["idle"], each["processes_unheard"]) for each in (all_told, unknown_there, silent)]
    assert told == [(True, 0), (False, 1), (False, 1)]


async def test_a_live_sibling_that_missed_a_call_is_told_it_again_in_order(tmp_path: Path) -> None:
    async with two(tmp_path) as (sibling, calls, session):
        sibling.faults.extend([0, 0])
        await call(session, "POST", DRAIN)
        await call(session, "DELETE", "/admin/workers/w")
        assert sibling.calls == []
        await calls.tell_again()
        await calls.tell_again()

    assert sibling.calls == [f"POST {DRAIN}", "DELETE /admin/workers/w"]


async def test_a_fleet_report_counts_the_processes_that_answer(tmp_path: Path) -> None:
    async with two(tmp_path) as (sibling, _, session):
        both = await call(session, "GET", "/fleet")
        sibling.faults.append(500)
        alone = await call(session, "GET", "/fleet")

    reports = [
        (each["processes"], each["handovers"], each["workers"][0]["handover_tokens"])
        for each in (both, alone)
    ]
    assert reports == [(2, {"granted": 2}, 6), (1, {"granted": 1}, 3)]

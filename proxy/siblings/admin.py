"""Has a call that reaches one process concern all of them, over the admin sockets that each has anyway.

GET /metrics, /fleet       of all, summed where each counts its own
GET /route/explain/...     from whichever process knows the request
POST, DELETE /admin/...    carried out here, then by every sibling; one that is down catches up as it starts;
                           one that lives and does not answer is called again

A call from a sibling says so in a header that no client's request can bring (`RESERVED_PREFIX`).
"""

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from ..admin_answers import json_answer
from ..workers_api import FROM_SIBLING
from .changes import Change, Changes
from .metric_sums import summed
from .place import Place

logger = logging.getLogger(__name__)

CHANGES_PATH = "/siblings/changes"
TIMEOUT_S = 5.0
AGAIN_S = 2.0
"""Between tries to reach one that did not answer."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_changes = msgspec.json.Decoder(list[Change])


class SiblingCalls:
    """One process's calls to the admin applications of its siblings."""

    def __init__(self, place: Place, sessions: dict[int, aiohttp.ClientSession]) -> None:
        self._place = place
        self._sessions = sessions
        self.changes = Changes()
        self._untold: dict[int, deque[Change]] = {other.index: deque() for other in place.others}
        """Calls that a sibling has yet to be told, in order; one at a time tells it."""
        self._telling = {index: asyncio.Lock() for index in self._untold}

    # --- answering

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ask the siblings too, where a call is about all processes."""
        if FROM_SIBLING in request.headers:
            return await self._from_sibling(request, handler)
        path = request.path
        if path == "/metrics":
            return await self._metrics(await handler(request))
        if path == "/fleet":
            return await self._fleet(await handler(request))
        if path.startswith("/route/explain/"):
            return await self._explain(request, handler)
        if path.startswith("/admin/"):
            return await self._change(request, handler)
        return await handler(request)

    async def _from_sibling(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == CHANGES_PATH:
            return web.Response(body=msgspec.json.encode(self.changes.all()))
        answer = await handler(request)
        if request.path.startswith("/admin/"):
            await self._note(request, answer)
        return answer

    async def _metrics(self, own: web.StreamResponse) -> web.StreamResponse:
        assert isinstance(own, web.Response)
        texts = [body.decode() for status, body in await self._ask_all("GET", "/metrics") if status == 200]
        answering = f"# TYPE baton_proxy_processes gauge\nbaton_proxy_processes {len(texts) + 1}\n"
        own.text = summed(own.text or "", texts) + answering
        return own

    async def _fleet(self, own: web.StreamResponse) -> web.StreamResponse:
        reports = [
            msgspec.json.decode(body)
            for status, body in await self._ask_all("GET", "/fleet")
            if status == 200
        ]
        report: dict[str, Any] = msgspec.json.decode(_body(own))
        tokens = Counter({worker["name"]: worker["handover_tokens"] for worker in report["workers"]})
        for other in reports:
            tokens.update({worker["name"]: worker["handover_tokens"] for worker in other["workers"]})
        for worker in report["workers"]:
            worker["handover_tokens"] = tokens[worker["name"]]
        handovers = sum((Counter(each["handovers"]) for each in (report, *reports)), Counter[str]())
        return json_answer(report | {"handovers": handovers, "processes": len(reports) + 1})

    async def _explain(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            for status, body in await self._ask_all("GET", request.raw_path):
                if status == 200:
                    return web.Response(body=body, content_type="application/json")
            raise

    async def _change(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.read()
        answer = await handler(request)
        if answer.status >= 300:
            return answer
        await self._note(request, answer)
        change = Change(method=request.method, path=request.raw_path, body=body)
        answers = await asyncio.gather(*(self._tell(index, change) for index in self._untold))
        told = [msgspec.json.decode(each[1]) for each in answers if each is not None and each[0] < 300]
        report: dict[str, Any] = msgspec.json.decode(_body(answer))
        report["processes_unheard"] = unheard = len(answers) - len(told)
        if "idle" in report:
            # What nobody has told may be a stream: the worker is not to be ended on it.
            report["idle"] = report["idle"] and not unheard and all(each["idle"] for each in told)
        return json_answer(report, answer.status)

    async def _note(self, request: web.Request, answer: web.StreamResponse) -> None:
        if answer.status < 300 and request.method != "GET":
            name = msgspec.json.decode(_body(answer))["name"]
            change = Change(method=request.method, path=request.raw_path, body=await request.read())
            self.changes.note(name, change)

    # --- asking

    async def catch_up(self, make: Callable[[Change], Awaitable[None]]) -> None:
        """Make the calls again that came before this process was there, as the first sibling tells them."""
        for status, body in await self._ask_all("GET", CHANGES_PATH):
            if status == 200:
                for change in _changes.decode(body):
                    await make(change)
                return

    async def make_again(self, change: Change) -> None:
        """Make a call to this process itself."""
        status, _ = await self._ask(self._place.index, change.method, change.path, change.body) or (0, b"")
        if status >= 300:
            logger.warning("%s %s could not be made up for: status %d", change.method, change.path, status)

    async def run(self) -> None:
        """Call siblings again that did not answer, until cancelled."""
        while True:
            await asyncio.sleep(AGAIN_S)
            await self.tell_again()

    async def tell_again(self) -> None:
        """Tell each sibling what it has yet to be told."""
        await asyncio.gather(
            *(self._tell_in_order(index) for index, untold in self._untold.items() if untold)
        )

    async def _tell(self, index: int, change: Change) -> tuple[int, bytes] | None:
        self._untold[index].append(change)
        return await self._tell_in_order(index)

    async def _tell_in_order(self, index: int) -> tuple[int, bytes] | None:
        """Return status and body of the last answer, None if there is none."""
        answer, untold = None, self._untold[index]
        async with self._telling[index]:
            while untold:
                change = untold[0]
                answer = await self._ask(index, change.method, change.path, change.body)
                if answer is None:
                    break
                if untold:  # else it was found to be gone meanwhile
                    untold.popleft()
        return answer

    async def _ask_all(self, method: str, path: str, body: bytes = b"") -> list[tuple[int, bytes]]:
        """Return status and body of each sibling that answers."""
        others = [other.index for other in self._place.others]
        answers = await asyncio.gather(*(self._ask(index, method, path, body) for index in others))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, index: int, method: str, path: str, body: bytes) -> tuple[int, bytes] | None:
        try:
            async with self._sessions[index].request(
                method, f"http://sibling{path}", data=body, headers={FROM_SIBLING: str(self._place.index)}
            ) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientConnectorError as error:
            logger.info("process %d is not there for %s %s: %s", index, method, path, error)
            if index in self._untold:
                self._untold[index].clear()  # it catches up when it starts
            return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.info("process %d does not answer %s %s: %r", index, method, path, error)
            return None


@contextlib.asynccontextmanager
async def sibling_calls(place: Place) -> AsyncIterator[SiblingCalls]:
    """Open the way to all siblings, and to this process itself."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with contextlib.AsyncExitStack() as stack:
        sessions = {
            each.index: await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(each.admin_socket)), timeout=timeout
                )
            )
            for each in (place, *place.others)
        }
        yield SiblingCalls(place, sessions)


def _body(answer: web.StreamResponse) -> bytes:
    assert isinstance(answer, web.Response)
    assert isinstance(answer.body, bytes)
    return answer.body

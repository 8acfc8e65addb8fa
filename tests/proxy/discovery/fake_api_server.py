"""A Kubernetes API server that knows EndpointSlices, and holds its clients to the rules of list and watch."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "a-token"


def slice_of(name: str, service: str, *addresses: str, port: int = 8100, **endpoint: Any) -> dict[str, Any]:
    """Return a slice whose endpoints are pods at these addresses."""
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "name": f"pod-{address.rpartition('.')[2]}"},
                **endpoint,
            }
            for address in addresses
        ],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }


@dataclass
class Watcher:
    """One open watch."""

    selector: str
    lines: asyncio.Queue[dict[str, Any] | None] = field(default_factory=asyncio.Queue)


class FakeApiServer:
    """One namespace, `prod`. Versions count up with every change; history before `oldest` is forgotten."""

    def __init__(self) -> None:
        self.version = 100
        self.oldest = 100
        self.slices: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.watchers: list[Watcher] = []
        self.watched = asyncio.Event()
        """Set when a watch begins."""
        self.calls: list[tuple[str, str]] = []
        """("list" or "watch", resource version)."""
        self.failures: list[int] = []
        """Statuses of the next calls."""
        self.breaches: list[str] = []
        self.url = ""

    # --- what the cluster does

    def apply(self, slice_: dict[str, Any]) -> None:
        name = slice_["metadata"]["name"]
        self._happens("MODIFIED" if name in self.slices else "ADDED", slice_)
        self.slices[name] = slice_

    def delete(self, name: str) -> None:
        self._happens("DELETED", self.slices.pop(name))

    def bookmark(self) -> None:
        self.version += 1
        for watcher in self.watchers:
            bookmark = {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self.version)}}
            watcher.lines.put_nowait({"type": "BOOKMARK", "object": bookmark})

    def compact(self) -> None:
        """Forget all history: older versions cannot be watched from."""
        self.oldest = self.version

    def end_watches(self, error: dict[str, Any] | None = None) -> None:
        self.watched.clear()
        for watcher in self.watchers:
            if error is not None:
                watcher.lines.put_nowait({"type": "ERROR", "object": error})
            watcher.lines.put_nowait(None)

    def _happens(self, kind: str, slice_: dict[str, Any]) -> None:
        self.version += 1
        slice_["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, kind, json.loads(json.dumps(slice_))))
        for watcher in self.watchers:
            if _selects(watcher.selector, slice_):
                watcher.lines.put_nowait({"type": kind, "object": slice_})

    # --- what clients see

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"code": 401, "message": "Unauthorized"}, status=401)
        watching = request.query.get("watch") in ("1", "true")
        version = request.query.get("resourceVersion", "")
        self.calls.append(("watch" if watching else "list", version))
        if self.failures:
            return web.json_response({"code": self.failures[0], "message": "no"}, status=self.failures.pop(0))
        selector = request.query["labelSelector"]
        if not watching:
            return web.json_response(self._list(selector))
        if not version:
            self.breaches.append("watched from no version: would see everything as added")
        if version and int(version) < self.oldest:
            return web.json_response({"code": 410, "message": "too old resource version"}, status=410)
        return await self._watch(request, selector, int(version or 0))

    def _list(self, selector: str) -> dict[str, Any]:
        items = [each for each in self.slices.values() if _selects(selector, each)]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": items or None}

    async def _watch(self, request: web.Request, selector: str, version: int) -> web.StreamResponse:
        watcher = Watcher(selector)
        for happened_at, kind, slice_ in self.history:
            if happened_at > version and _selects(selector, slice_):
                watcher.lines.put_nowait({"type": kind, "object": slice_})
        response = web.StreamResponse()
        await response.prepare(request)
        self.watchers.append(watcher)
        self.watched.set()
        try:
            while (line := await watcher.lines.get()) is not None:
                data = json.dumps(line).encode() + b"\n"
                half = len(data) // 2
                await response.write(data[:half])
                await response.write(data[half:])
        finally:
            self.watchers.remove(watcher)
        return response


def _selects(selector: str, slice_: dict[str, Any]) -> bool:
    key, _, value = selector.partition("=")
    return bool(slice_["metadata"]["labels"].get(key) == value)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[FakeApiServer]:
    server = FakeApiServer()
    app = web.Application()
    app.router.add_get("/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
        assert server.breaches == []
    finally:
        server.end_watches()
        await runner.cleanup()

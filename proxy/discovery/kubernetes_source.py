"""Kubernetes' API server: the EndpointSlices of the configured services, listed once and then watched.

    list      -> the whole state, and its version
    watch     <- what changed since that version, line by line; bookmarks only move the version
                 it ends: watch again from the last version      410, by status or as an event: list again
    failure   -> pause, doubling; list again; until then the last state stands

One task a service. https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from ..config import WorkerAddress
from .endpoint_slices import EndpointSlice, EndpointSliceList, ServiceEndpoints
from .settings import KubernetesSettings, ServiceSettings
from .trouble import Trouble

_GRACE_S = 30.0
"""How much longer than agreed a watch may be silent before it is taken for dead."""
_LONGEST_LINE_BYTES = 16 * 1024 * 1024


class KubernetesError(RuntimeError):
    """The API server does not answer as it should."""


class ExpiredError(KubernetesError):
    """The version to watch from is too old: list again."""


class _Event(msgspec.Struct, frozen=True):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct, frozen=True):
    """What an ERROR event carries, and the body of a failure."""

    code: int = 0
    message: str = ""


_events = msgspec.json.Decoder(_Event)
_slices = msgspec.json.Decoder(EndpointSlice)
_lists = msgspec.json.Decoder(EndpointSliceList)
_statuses = msgspec.json.Decoder(_Status)


class KubernetesSource:
    """Services of one namespace."""

    def __init__(self, settings: KubernetesSettings, session: aiohttp.ClientSession) -> None:
        names = ", ".join(service.name for service in settings.services)
        self.name = f"kubernetes {names}"
        self._settings = settings
        self._session = session
        self._found: dict[str, list[WorkerAddress]] = {}
        self._troubles = {each.name: Trouble(f"kubernetes {each.name}") for each in settings.services}

    @property
    def problem(self) -> str | None:
        """What is wrong with any of the services."""
        return next((each.problem for each in self._troubles.values() if each.problem), None)

    async def run(self, found: Callable[[Sequence[WorkerAddress]], None]) -> None:
        """Follow the services until cancelled. Nothing is told before all of them were listed."""

        def told(service: str, workers: list[WorkerAddress]) -> None:
            self._found[service] = workers
            if len(self._found) == len(self._settings.services):
                found([each for listed in self._found.values() for each in listed])

        async with asyncio.TaskGroup() as tasks:
            for service in self._settings.services:
                follow = self._follow(service, told)
                tasks.create_task(follow, name=f"watch service {service.name}")

    async def _follow(
        self, service: ServiceSettings, told: Callable[[str, list[WorkerAddress]], None]
    ) -> None:
        settings, trouble = self._settings, self._troubles[service.name]
        state = ServiceEndpoints(service)

        def listed() -> None:
            trouble.report(None)
            told(service.name, state.workers())

        failures = 0
        while True:
            try:
                await self._list_and_watch(service, state, listed)
            except ExpiredError:
                failures = 0
            except (KubernetesError, aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
                # A problem that no success has ended since is still the same one.
                failures = failures + 1 if trouble.problem else 0
                trouble.report(f"kubernetes {service.name}: {error or type(error).__name__}")
            pause_s = settings.backoff_first_s * 2 ** min(failures, 20)
            await asyncio.sleep(min(pause_s, settings.backoff_longest_s))

    async def _list_and_watch(
        self, service: ServiceSettings, state: ServiceEndpoints, changed: Callable[[], None]
    ) -> None:
        async with asyncio.timeout(self._settings.call_timeout_s):
            async with self._call(service, {}) as answer:
                await _check(answer)
                listed = _lists.decode(await answer.read())
        state.replace(listed.items or ())
        changed()
        version = listed.metadata.resource_version
        while True:
            async with contextlib.aclosing(self._watch(service, version)) as events:
                async for event in events:
                    version = _take(event, state)
                    if event.type != "BOOKMARK":
                        changed()
            await asyncio.sleep(self._settings.backoff_first_s)  # however fast the server ends its watches

    async def _watch(self, service: ServiceSettings, version: str) -> AsyncGenerator[_Event, None]:
        """Yield what happens until the server ends the watch. Raises `ExpiredError`, `KubernetesError`."""
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._settings.watch_timeout_s),
        }
        async with self._call(service, query) as answer:
            await _check(answer)
            async for line in _lines(answer):
                event = _events.decode(line)
                if event.type == "ERROR":
                    status = _statuses.decode(event.object)
                    raise _error(status.code, status.message)
                yield event

    @contextlib.asynccontextmanager
    async def _call(
        self, service: ServiceSettings, query: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        settings = self._settings
        secrets = await asyncio.to_thread(self._secrets)
        url = f"{settings.api_url}/apis/discovery.k8s.io/v1/namespaces/{secrets.namespace}/endpointslices"
        silence_s = settings.watch_timeout_s + _GRACE_S
        async with self._session.get(
            url,
            params={"labelSelector": f"kubernetes.io/service-name={service.name}", **query},
            headers={"Authorization": f"Bearer {secrets.token}", "Accept": "application/json"},
            ssl=True if secrets.authorities is None else secrets.authorities,
            timeout=aiohttp.ClientTimeout(sock_connect=settings.call_timeout_s, sock_read=silence_s),
        ) as answer:
            yield answer

    def _secrets(self) -> "_Secrets":
        settings = self._settings
        authorities = None
        if settings.ca_file is not None and settings.api_url.startswith("https:"):
            authorities = ssl.create_default_context(cafile=settings.ca_file)
        return _Secrets(
            token=_text_of(settings.token_file),
            namespace=settings.namespace or _text_of(settings.namespace_file),
            authorities=authorities,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Secrets:
    """What a pod is given to speak to the API server with."""

    token: str
    namespace: str
    authorities: ssl.SSLContext | None


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise KubernetesError(f"{path}: {error.strerror}") from error


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status != 200:
        body = await answer.read()
        try:
            message = _statuses.decode(body).message
        except msgspec.DecodeError:
            message = ""
        raise _error(answer.status, message)


def _error(code: int, message: str) -> KubernetesError:
    kind = ExpiredError if code == 410 else KubernetesError
    return kind(f"the API server answered {code}" + (f": {message}" if message else ""))


def _take(event: _Event, state: ServiceEndpoints) -> str:
    """Apply one event; return the version that it leads to."""
    slice_ = _slices.decode(event.object)
    match event.type:
        case "ADDED" | "MODIFIED":
            state.put(slice_)
        case "DELETED":
            state.drop(slice_)
        case "BOOKMARK":
            pass
        case unknown:
            raise KubernetesError(f"the API server sent an event of unknown type {unknown!r}")
    return slice_.metadata.resource_version


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of a body as they come; one slice may be longer than aiohttp's own limit for a line."""
    rest = b""
    async for data in answer.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > _LONGEST_LINE_BYTES:
            raise KubernetesError(f"the API server sent a line of more than {_LONGEST_LINE_BYTES} bytes")

"""The addresses behind a name, each of them a worker; asked for again and again.

A resolver that cannot be reached changes nothing. An answer that the name has no address counts when it was
given several times in a row: a name that is just being set up, or moved, may have none for a moment.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

from ..config import WorkerAddress
from .settings import DnsSettings
from .trouble import Trouble

_NO_ADDRESS = {socket.EAI_NONAME, socket.EAI_NODATA}

Resolve = Callable[[str], Awaitable[list[str]]]
"""Returns a name's addresses; raises `socket.gaierror`."""


async def resolve(host: str) -> list[str]:
    """Return the A and AAAA addresses of `host`, by the system's resolver. Raises `socket.gaierror`."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in answers})


class DnsSource:
    """One name."""

    def __init__(self, settings: DnsSettings, resolve: Resolve = resolve) -> None:
        self.name = f"dns {settings.host}:{settings.port}"
        self._settings = settings
        self._resolve = resolve
        self._trouble = Trouble(self.name)
        self._misses = 0

    @property
    def problem(self) -> str | None:
        """Why the name could not be resolved last time."""
        return self._trouble.problem

    async def run(self, found: Callable[[Sequence[WorkerAddress]], None]) -> None:
        """Resolve the name until cancelled."""
        while True:
            workers = await self._look()
            if workers is not None:
                found(workers)
            await asyncio.sleep(self._settings.interval_s)

    async def _look(self) -> list[WorkerAddress] | None:
        """Return the workers; None if nothing is known anew."""
        try:
            addresses = await self._resolve(self._settings.host)
        except socket.gaierror as error:
            self._trouble.report(f"{self.name}: {error.strerror}")
            if error.errno not in _NO_ADDRESS:
                return None
            self._misses += 1
            return [] if self._misses >= self._settings.misses_to_empty else None
        self._misses = 0
        self._trouble.report(None)
        return [self._worker(address) for address in addresses]

    def _worker(self, address: str) -> WorkerAddress:
        settings = self._settings
        return WorkerAddress(
            url=http_url(address, settings.port),
            role=settings.role,
            kind=settings.kind,
            bootstrap_port=settings.bootstrap_port,
        )


def http_url(address: str, port: int) -> str:
    """Return the URL of a worker's API."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"

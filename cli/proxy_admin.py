"""`baton up`'s calls to its proxy's admin API: list a worker, and have one drained and forgotten."""

import asyncio

import aiohttp
import msgspec

from .fleet_messages import Address

LOOK_S = 0.1
TIMEOUT = aiohttp.ClientTimeout(total=10)


class ProxyAdmin:
    """Calls with the token that the proxy was started with."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}

    async def add(self, proxy: Address, entry: dict[str, str]) -> str | None:
        """List a worker; return why that failed, if it did."""
        return await self._call(proxy, "POST", "/admin/workers", entry, expected=(201, 409))

    async def remove(self, proxy: Address, name: str) -> str | None:
        """Return when the proxy has drained and forgotten a worker, or why it will not."""
        problem = await self._call(proxy, "DELETE", f"/admin/workers/{name}", None, expected=(202, 404))
        while problem is None and await self._is_listed(proxy, name):  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(LOOK_S)
        return problem

    async def _is_listed(self, proxy: Address, name: str) -> bool:
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT) as session,
                session.get(f"{proxy.url}/fleet") as got,
            ):
                workers = msgspec.json.decode(await got.read(), type=_Fleet).workers
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            return True  # it may be starting again
        return any(worker.name == name for worker in workers)

    async def _call(
        self,
        proxy: Address,
        method: str,
        path: str,
        body: dict[str, str] | None,
        *,
        expected: tuple[int, ...],
    ) -> str | None:
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT, headers=self._headers) as session,
                session.request(method, proxy.url + path, json=body) as answer,
            ):
                if answer.status in expected:
                    return None
                return f"the proxy answered {answer.status}: {await answer.text()}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"the proxy does not answer: {error or 'timeout'}"


class _Worker(msgspec.Struct, frozen=True):
    name: str


class _Fleet(msgspec.Struct, frozen=True):
    workers: list[_Worker]

"""`baton up`'s calls to its proxy's admin API: list a worker, and have one drained and forgotten."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import msgspec

from .fleet_messages import Address
from .settings import SettingsError, parse_override, put

SETTING = "admin_token_file"
"""The proxy's setting: calls must bring what stands in that file."""

LOOK_S = 0.1
TIMEOUT = aiohttp.ClientTimeout(total=10)


def token_file_among(overrides: Iterable[str]) -> Path | None:
    """Return the token file that settings of the proxy name, None if they leave that to `baton up`.

    Raises `SettingsError` if there is no token in it, since `baton ranks` would be refused.
    """
    settings: dict[str, object] = {}
    for override in overrides:
        put(settings, *parse_override(override))
    if SETTING not in settings:
        return None
    named = settings[SETTING]
    flag = f"--proxy-set {SETTING}={named}"
    if not isinstance(named, str):
        raise SettingsError(f"{flag}: name a file with a token, or leave it away: `baton ranks` needs one")
    try:
        _read_token(Path(named))
    except _NoTokenError as error:
        raise SettingsError(f"{flag}: {error}") from error
    return Path(named)


class _NoTokenError(ValueError):
    """Why a file gives no token."""


def _read_token(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise _NoTokenError(error.strerror) from error
    except UnicodeDecodeError as error:
        raise _NoTokenError("it is not text") from error
    if not token:
        raise _NoTokenError("it is empty")
    return token


class ProxyAdmin:
    """Calls with the token in a file: read anew each time, as the proxy does."""

    def __init__(self, token_file: Path) -> None:
        self._token_file = token_file

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
            token = await asyncio.to_thread(_read_token, self._token_file)
        except _NoTokenError as error:
            return f"{self._token_file}: {error}"
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT, headers=headers) as session,
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

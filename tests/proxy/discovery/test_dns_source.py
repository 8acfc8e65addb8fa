"""The addresses behind a name are workers; a resolver in trouble changes nothing."""

import asyncio
import socket

from baton.proxy.discovery.dns_source import DnsSource, resolve
from baton.proxy.discovery.settings import DnsSettings
from baton.proxy.routing.fleet import Role

from .listening import running

SETTINGS = DnsSettings(host="decode", port=8200, role=Role.DECODE, interval_s=0.001, misses_to_empty=3)
NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
TRY_AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class Resolver:
    """Gives one answer after another; nothing more is asked of it before the test lets it."""

    def __init__(self, *answers: list[str] | socket.gaierror) -> None:
        self.answers = list(answers)
        self.done = asyncio.Event()

    async def resolve(self, host: str) -> list[str]:
        assert host == "decode"
        if not self.answers:
            self.done.set()
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, socket.gaierror):
            raise answer
        return answer


async def found(*answers: list[str] | socket.gaierror) -> tuple[list[list[str]], str | None]:
    """Return the lists that these answers lead to, and the problem at the end."""
    resolver = Resolver(*answers)
    source = DnsSource(SETTINGS, resolver.resolve)
    async with running(source) as lists:
        async with asyncio.timeout(20):
            await resolver.done.wait()
        return [await lists.next() for _ in range(lists.waiting)], source.problem


async def test_every_address_is_a_worker() -> None:
    lists, problem = await found(["10.0.0.1", "fd00::1"], ["10.0.0.2"])

    assert lists == [["10.0.0.1:8200", "fd00::1:8200"], ["10.0.0.2:8200"]]
    assert problem is None


async def test_a_resolver_that_fails_changes_nothing() -> None:
    lists, problem = await found(["10.0.0.1"], *[TRY_AGAIN] * 10)

    assert lists == [["10.0.0.1:8200"]]
    assert problem == "dns decode:8200: Temporary failure in name resolution"


async def test_a_name_that_is_gone_for_a_while_has_no_workers() -> None:
    assert await found(["10.0.0.1"], NO_NAME, NO_NAME, ["10.0.0.1"]) == ([["10.0.0.1:8200"]] * 2, None)
    lists, _ = await found(["10.0.0.1"], NO_NAME, NO_NAME, NO_NAME)
    assert lists == [["10.0.0.1:8200"], []]


async def test_the_system_s_resolver_gives_each_address_once() -> None:
    assert await resolve("127.0.0.1") == ["127.0.0.1"]

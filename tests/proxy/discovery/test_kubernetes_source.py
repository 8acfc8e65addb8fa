"""The workers follow a service's EndpointSlices, through lost watches, forgotten history and failures."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from baton.proxy.discovery.kubernetes_source import KubernetesSource
from baton.proxy.discovery.settings import KubernetesSettings, ServiceSettings
from baton.proxy.routing.fleet import Role

from .fake_api_server import TOKEN, FakeApiServer, serving, slice_of
from .listening import Lists, heard_warnings, running

PREFILL = ServiceSettings(name="prefill", role=Role.PREFILL)
DECODE = ServiceSettings(name="decode", role=Role.DECODE)


def settings(
    server: FakeApiServer, tmp_path: Path, *services: ServiceSettings, **changes: Any
) -> KubernetesSettings:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    quick = {"backoff_first_s": 0.01, "backoff_longest_s": 0.02}
    return KubernetesSettings(
        services=services or (PREFILL,),
        namespace="prod",
        api_url=server.url,
        token_file=str(tmp_path / "token"),
        **(quick | changes),
    )


@contextlib.asynccontextmanager
async def following(
    server: FakeApiServer, tmp_path: Path, *services: ServiceSettings
) -> AsyncIterator[tuple[KubernetesSource, Lists]]:
    async with aiohttp.ClientSession() as session:
        source = KubernetesSource(settings(server, tmp_path, *services), session)
        async with running(source) as lists:
            yield source, lists


async def watched(server: FakeApiServer) -> None:
    async with asyncio.timeout(20):
        await server.watched.wait()


async def test_what_is_listed_and_what_changes_is_followed(tmp_path: Path) -> None:
    async with serving() as server:
        server.apply(slice_of("a", "prefill", "10.0.0.1"))
        async with following(server, tmp_path) as (_, lists):
            assert await lists.next() == ["pod-1:8100"]
            await watched(server)
            server.apply(slice_of("a", "prefill", "10.0.0.1", "10.0.0.2"))
            assert await lists.next() == ["pod-1:8100", "pod-2:8100"]
            server.apply(slice_of("b", "prefill", "10.0.0.3"))
            assert await lists.next() == ["pod-1:8100", "pod-2:8100", "pod-3:8100"]
            server.delete("a")
            assert await lists.next() == ["pod-3:8100"]
        assert server.calls == [("list", ""), ("watch", "101")]


async def test_a_watch_that_ends_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    async with serving() as server:
        async with following(server, tmp_path) as (_, lists):
            assert await lists.next() == []
            await watched(server)
            server.apply(slice_of("a", "prefill", "10.0.0.1"))
            assert await lists.next() == ["pod-1:8100"]
            server.end_watches()
            server.apply(slice_of("b", "prefill", "10.0.0.2"))
            assert await lists.next() == ["pod-1:8100", "pod-2:8100"]
        assert server.calls == [("list", ""), ("watch", "100"), ("watch", "101")]


async def test_a_bookmark_moves_the_version_on_without_news(tmp_path: Path) -> None:
    async with serving() as server:
        async with following(server, tmp_path) as (_, lists):
            assert await lists.next() == []
            await watched(server)
            server.bookmark()
            server.end_watches()
            await watched(server)
            server.apply(slice_of("a", "prefill", "10.0.0.1"))
            assert await lists.next() == ["pod-1:8100"]
        assert server.calls[-1] == ("watch", "101")


async def test_when_the_history_is_gone_it_lists_again(tmp_path: Path) -> None:
    async with serving() as server:
        server.apply(slice_of("a", "prefill", "10.0.0.1"))
        async with following(server, tmp_path) as (source, lists):
            await lists.until(["pod-1:8100"])
            await watched(server)
            server.end_watches()
            server.delete("a")
            server.apply(slice_of("b", "prefill", "10.0.0.2"))
            server.compact()
            await lists.until(["pod-2:8100"])
            await watched(server)
            assert source.problem is None
        assert server.calls.count(("list", "")) == 2
        assert server.calls[-1] == ("watch", str(server.version))


async def test_an_expiry_within_a_watch_makes_it_list_again(tmp_path: Path) -> None:
    async with serving() as server:
        async with following(server, tmp_path) as (source, lists):
            assert await lists.next() == []
            await watched(server)
            server.end_watches({"kind": "Status", "code": 410, "message": "too old"})
            assert await lists.next() == []
            await watched(server)
            assert source.problem is None
        assert [call for call, _ in server.calls] == ["list", "watch", "list", "watch"]


async def test_while_the_server_fails_the_last_list_stands_and_the_trouble_is_told(tmp_path: Path) -> None:
    async with serving() as server:
        server.apply(slice_of("a", "prefill", "10.0.0.1"))
        with heard_warnings() as warned:
            async with following(server, tmp_path) as (source, lists):
                await lists.until(["pod-1:8100"])
                await watched(server)
                server.failures = [500, 403]
                server.end_watches()
                assert "answered 500: no" in await warned.next()
                assert "answered 403: no" in await warned.next()
                assert await lists.next() == ["pod-1:8100"]
                assert source.problem is None


async def test_a_wrong_token_is_told_and_a_new_one_is_used(tmp_path: Path) -> None:
    async with serving() as server, aiohttp.ClientSession() as session:
        configured = settings(server, tmp_path)
        (tmp_path / "token").write_text("an-old-token")
        source = KubernetesSource(configured, session)
        with heard_warnings() as warned:
            async with running(source) as lists:
                assert "kubernetes prefill: the API server answered 401: Unauthorized" in await warned.next()
                (tmp_path / "token").write_text(TOKEN)
                assert await lists.next() == []
                assert source.problem is None


async def test_nothing_is_told_before_every_service_was_listed(tmp_path: Path) -> None:
    async with serving() as server:
        server.apply(slice_of("a", "prefill", "10.0.0.1"))
        server.apply(slice_of("b", "decode", "10.0.0.2", port=8200))
        server.failures = [500]
        async with following(server, tmp_path, PREFILL, DECODE) as (_, lists):
            assert sorted(await lists.next()) == ["pod-1:8100", "pod-2:8200"]


async def test_a_slice_larger_than_a_read_is_followed(tmp_path: Path) -> None:
    async with serving() as server, following(server, tmp_path) as (_, lists):
        assert await lists.next() == []
        await watched(server)
        addresses = [f"10.0.{number // 250}.{number % 250 + 1000}" for number in range(1000)]
        many = slice_of("a", "prefill", *addresses)
        for number, endpoint in enumerate(many["endpoints"]):
            endpoint["targetRef"]["name"] = f"pod-{number}"
        server.apply(many)
        assert len(await lists.next()) == 1000

"""A proxy in front of fake workers, for the tests over real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from baton.proxy.config import Probing, ProxyConfig, WorkerAddress
from baton.proxy.routing.fleet import Kind, Role
from baton.proxy.server import Proxy, running_proxy

from .fakes import Answer, FakeWorker, RawClient, connected

QUICK = Probing(interval_s=0.2, timeout_s=2.0, backoff_first_s=0.02, backoff_longest_s=0.1)


@dataclass
class House:
    """A proxy and its workers."""

    proxy: Proxy
    workers: list[FakeWorker]

    @property
    def prefill(self) -> FakeWorker:
        return next(worker for worker in self.workers if worker.role == "prefill")

    @property
    def decode(self) -> FakeWorker:
        return next(worker for worker in self.workers if worker.role == "decode")

    def connect(self) -> contextlib.AbstractAsyncContextManager[RawClient]:
        return connected(self.proxy.port)

    async def ask(self, body: bytes, *lines: str, **options: Any) -> Answer:
        async with self.connect() as client:
            await client.post(body, *lines, **options)
            return await client.answer()

    async def get(self, path: str, method: str = "GET") -> Answer:
        async with self.connect() as client:
            await client.get(path, method)
            return await client.answer()

    async def settled(self) -> None:
        """Wait until every abort is done."""
        await self.proxy.reaper.settle(5.0)

    def assert_nothing_held(self) -> None:
        router = self.proxy.hub.router
        assert len(router.ledger) == 0
        assert len(router.ids) == 0
        assert not self.proxy.hub.exchanges
        admission = router.admission
        assert (len(admission.slots), admission.slots.held_tokens, admission.waiting) == (0, 0, 0)
        assert admission.problems() == []
        for worker in router.fleet.workers.values():
            load = (
                worker.prefill_tokens,
                worker.decode_tokens,
                worker.prefill_requests,
                worker.decode_requests,
            )
            assert load == (0, 0, 0, 0), worker


@contextlib.asynccontextmanager
async def housed(*workers: FakeWorker, waits: bool = True, **settings: Any) -> AsyncIterator[House]:
    """Run workers and a proxy that takes them in turn; at the end nothing may be held for any request."""
    for worker in workers:
        await worker.start()
    addresses = tuple(
        WorkerAddress(
            url=worker.url,
            role=Role(worker.role),
            kind=Kind(worker.kind),
            kv_events=worker.kv_events,
            bootstrap_port=worker.bootstrap_port,
        )
        for worker in workers
    )
    settings = {"policy": "round_robin", "probing": QUICK, "drain_grace_s": 1.0} | settings
    config = ProxyConfig(workers=addresses, port=0, **settings)
    failure: Exception | None = None
    try:
        async with running_proxy(config) as proxy:
            house = House(proxy, list(workers))
            try:
                async with asyncio.timeout(60):
                    if waits:
                        await proxy.until_ready(complete=True)
                    yield house
            except Exception as error:  # raised below: the proxy's task group would wrap it
                failure = error
        if failure is not None:
            raise failure
        await house.settled()
        house.assert_nothing_held()
    finally:
        for worker in workers:
            await worker.kill()


def pair() -> tuple[FakeWorker, FakeWorker]:
    return FakeWorker("prefill"), FakeWorker("decode")


def two_pairs() -> tuple[FakeWorker, ...]:
    return (*pair(), *pair())

"""Connections are made a few at a time, and a late loop is not held against a server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from baton.proxy.cork import Cork
from baton.proxy.upstream import CONNECTING, Connection, Pool, TcpAddress


class Passenger:
    """Keeps what it was told."""

    def __init__(self, pool: Pool) -> None:
        self.cancelled = False
        self.connection: Connection | None = None
        self.refusal: str | None = None
        self.connecting_when_told = 0
        self._pool = pool
        self.told = asyncio.Event()

    def connected(self, connection: Connection) -> None:
        self.connection = connection
        self.connecting_when_told = self._pool.connecting
        self.told.set()

    def unreachable(self, detail: str) -> None:
        self.refusal = detail
        self.told.set()

    def data_received(self, data: bytes) -> None:
        """Nothing comes."""

    def connection_lost(self, detail: str) -> None:
        """The test is over."""


@asynccontextmanager
async def pool_of(*, connect_timeout_s: float = 5.0) -> AsyncIterator[Pool]:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    async with server, asyncio.TaskGroup() as tasks:
        address = TcpAddress("127.0.0.1", server.sockets[0].getsockname()[1])
        cork = Cork(asyncio.get_running_loop())
        pool = Pool(address, tasks, cork, connect_timeout_s=connect_timeout_s, max_idle=1000)
        yield pool
        pool.close()
        while pool.connecting or pool.connections:
            for connection in list(pool.connections):
                connection.transport.abort()
            await asyncio.sleep(0.01)


async def ride(pool: Pool, count: int) -> list[Passenger]:
    riders = [Passenger(pool) for _ in range(count)]
    for rider in riders:
        pool.acquire(rider)
    return riders


async def test_of_many_that_come_at_once_all_get_a_connection_and_few_are_made_at_a_time() -> None:
    async with pool_of() as pool:
        riders = await ride(pool, 4 * CONNECTING)
        assert pool.connecting == CONNECTING
        for rider in riders:
            await rider.told.wait()

        assert len({rider.connection for rider in riders}) == 4 * CONNECTING
        assert max(rider.connecting_when_told for rider in riders) <= CONNECTING
        assert pool.connecting == 0


async def test_a_connection_that_is_given_back_goes_to_who_waits() -> None:
    async with pool_of() as pool:
        [first] = await ride(pool, 1)
        await first.told.wait()
        riders = await ride(pool, CONNECTING + 1)
        assert first.connection is not None
        first.connection.give_back()
        for rider in riders:
            await rider.told.wait()

        assert riders[-1].connection is first.connection
        assert len(pool.connections) == CONNECTING + 1


async def test_who_left_while_waiting_gets_none() -> None:
    async with pool_of() as pool:
        riders = await ride(pool, CONNECTING + 2)
        riders[-2].cancelled = True
        await riders[-1].told.wait()

        assert riders[-2].connection is riders[-2].refusal is None


async def test_a_loop_that_was_late_is_not_held_against_the_server() -> None:
    async with pool_of(connect_timeout_s=0.2) as pool:
        [rider] = await ride(pool, 1)
        await asyncio.sleep(0)
        time.sleep(0.5)  # noqa: ASYNC251  the loop is busy, whatever the server does
        await rider.told.wait()

        assert (rider.refusal, rider.connection is not None) == (None, True)


async def test_those_who_wait_are_told_when_the_worker_is_removed() -> None:
    async with pool_of() as pool:
        riders = await ride(pool, CONNECTING + 1)
        pool.close()
        await riders[-1].told.wait()

        assert riders[-1].refusal == "the worker was removed"

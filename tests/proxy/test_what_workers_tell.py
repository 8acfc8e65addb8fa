"""What a worker tells of itself on `/ready` reaches the decisions: captured batch sizes and lockstep."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from .fakes import Connection, FakeWorker, Request, chat
from .house import House, housed

DEAR_ROWS = """policy: pair_cost
slow_start_s: 0.0
rates: {decode_step: {base_s: 0.001, per_row_s: 0.01, per_context_token_s: 1.0e-09}}
"""
"""Steps cost by their rows: nothing else tells workers that hold nothing from each other."""


class Streams:
    """Requests that are held open on whatever worker they came to."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[FakeWorker] = asyncio.Queue()

    def worker(self, *sizes: int, group: str | None = None) -> FakeWorker:
        worker = FakeWorker("decode", captured_batch_sizes=sizes, lockstep_group=group)
        worker.usual = self._hold
        return worker

    async def open(self, house: House, clients: contextlib.AsyncExitStack, count: int) -> list[FakeWorker]:
        """Send `count` requests, one after another; return whom each came to."""
        took = []
        for _ in range(count):
            client = await clients.enter_async_context(house.connect())
            await client.post(chat(max_tokens=100))
            took.append(await self._arrived.get())
        return took

    async def _hold(self, worker: FakeWorker, connection: Connection, request: Request) -> None:
        await self._arrived.put(worker)
        await connection.until_closed()


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(DEAR_ROWS)
    return str(path)


async def test_a_batch_that_would_cross_a_captured_size_costs_the_step_of_the_next(policy: str) -> None:
    streams = Streams()
    coarse, fine = streams.worker(8, 1), streams.worker(1, 2, 4, 8)
    async with housed(coarse, fine, policy=policy) as house, contextlib.AsyncExitStack() as clients:
        took = await streams.open(house, clients, 4)

    assert took == [coarse, fine, fine, fine]  # 1 row each, then 2 and 4 against 8


async def test_a_rank_is_dear_while_another_of_its_group_is_slow(policy: str) -> None:
    streams = Streams()
    workers = [streams.worker(group="ranks"), streams.worker(group="ranks"), streams.worker()]
    async with housed(*workers, policy=policy) as house, contextlib.AsyncExitStack() as clients:
        took = await streams.open(house, clients, 2)

    assert took == [workers[0], workers[2]]  # the idle rank waits for the busy one in every step


async def test_what_a_worker_tells_anew_holds_from_its_next_look(policy: str) -> None:
    streams = Streams()
    one, other = streams.worker(1, 8), streams.worker(1, 2, 8)
    async with housed(one, other, policy=policy) as house, contextlib.AsyncExitStack() as clients:
        took = await streams.open(house, clients, 2)
        one.captured_batch_sizes, other.captured_batch_sizes = (1, 2, 8), (1, 8)
        listed = house.proxy.hub.router.fleet.workers
        await house.proxy.until(lambda: listed[one.name].sighting.captured_batch_sizes == (1, 2, 8))
        await house.proxy.until(lambda: listed[other.name].sighting.captured_batch_sizes == (1, 8))
        took += await streams.open(house, clients, 1)

    assert took == [one, other, one]


async def test_the_fleet_shows_what_each_worker_tells(policy: str) -> None:
    worker = FakeWorker("decode", captured_batch_sizes=(4, 1), lockstep_group="ranks")
    worker.load = {"running": 3, "waiting": 1, "kv_tokens_free": 640}
    async with housed(worker, policy=policy) as house:
        [shown] = (await house.get("/fleet")).json["workers"]

    assert shown["told"] == worker.load
    assert (shown["captured_batch_sizes"], shown["lockstep_group"]) == ([1, 4], "ranks")

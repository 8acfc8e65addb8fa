"""What a proxy believes of caches: learned from dispatches, corrected by events, cleared by restarts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import zmq

from baton.kvtransfer.events import AllBlocksCleared, KvEventBatch, encode_batch
from baton.proxy.kv_event_source import KvEventAddress

from .fakes import FakeWorker, chat
from .house import House, housed, pair

LONG = chat(messages=[{"role": "user", "content": "a long story " * 200}])


def believed_chunks(house: House, worker: FakeWorker) -> int:
    """Return how many chunks of `LONG` the proxy believes `worker` to hold."""
    course = house.proxy.hub.courses.default
    [record] = [house.proxy.hub.log.find("mine")]
    assert record is not None
    keys = record.request.prefix_keys
    assert keys
    now = house.proxy.hub.loop.time()
    return course.memory.index.lookup(keys, now).chunks(worker.name)


@asynccontextmanager
async def publishing(worker: FakeWorker) -> AsyncIterator["zmq.Socket[bytes]"]:
    context = zmq.Context()
    publications = context.socket(zmq.XPUB)
    publications.bind("tcp://127.0.0.1:0")
    endpoint = publications.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    worker.kv_events = KvEventAddress(endpoint=endpoint.rstrip(b"\0").decode())
    try:
        yield publications
    finally:
        context.destroy(linger=0)


async def test_a_cache_that_was_cleared_is_believed_empty() -> None:
    workers = pair()
    async with publishing(workers[1]) as publications, housed(*workers, policy="pair_cost") as house:
        assert await asyncio.to_thread(publications.poll, 20_000)
        await house.ask(LONG, "X-Request-Id: mine")
        assert believed_chunks(house, house.decode) > 0
        cleared = encode_batch(KvEventBatch(ts=1.0, events=[AllBlocksCleared()]))
        publications.send_multipart([b"", (0).to_bytes(8, "big"), cleared])
        async with asyncio.timeout(20):
            while believed_chunks(house, house.decode):  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0.005)


async def test_a_worker_that_was_restarted_is_believed_empty() -> None:
    async with housed(*pair(), policy="pair_cost") as house:
        await house.ask(LONG, "X-Request-Id: mine")
        assert believed_chunks(house, house.decode) > 0
        await house.decode.kill()
        await house.decode.start()
        fleet = house.proxy.hub.router.fleet
        seen = fleet.workers[house.decode.name]
        await house.proxy.until(lambda: seen.sighting.incarnation == house.decode.incarnation)

        assert believed_chunks(house, house.decode) == 0

"""KV events are read over real sockets, gaps are replayed, and what cannot be read is not believed."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
import zmq

from baton.kvtransfer.event_publisher import KvEventPublisher
from baton.kvtransfer.events import AllBlocksCleared, BlockRemoved, KvEventBatch, blocks_stored, encode_batch
from baton.proxy.kv_event_source import (
    END_OF_REPLAY,
    KvEventAddress,
    KvEventSource,
    KvEventsUnavailableError,
    read_report,
)
from baton.proxy.routing.cache_events import CacheReport, Cleared, Removed, Stored

W = "worker"


class Listener:
    """Takes the place of `CacheEvents`."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[CacheReport | str] = asyncio.Queue()
        self.followed: list[str] = []

    def follow(self, worker: str) -> None:
        self.followed.append(worker)

    def unfollow(self, worker: str) -> None:
        self.followed.remove(worker)

    def report(self, worker: str, report: CacheReport, now: float) -> None:
        self.heard.put_nowait(report)

    def lost(self, worker: str) -> None:
        self.heard.put_nowait("lost")

    async def next(self) -> CacheReport | str:
        async with asyncio.timeout(20):
            return await self.heard.get()


def payload(ts: float) -> bytes:
    return encode_batch(KvEventBatch(ts=ts, events=[AllBlocksCleared()]))


def report(ts: float) -> CacheReport:
    return CacheReport(ts=ts, changes=[Cleared()])


class Publisher:
    """Publishes what the test says, under the numbers that it says."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.publications = self.context.socket(zmq.XPUB)
        self.replays = self.context.socket(zmq.ROUTER)
        self.publications.set_hwm(0)
        self.publications.bind("tcp://127.0.0.1:0")
        self.replays.bind("tcp://127.0.0.1:0")

    @property
    def address(self) -> KvEventAddress:
        ends = [
            s.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode() for s in (self.publications, self.replays)
        ]
        return KvEventAddress(endpoint=ends[0], replay_endpoint=ends[1])

    def await_subscriber(self) -> None:
        assert self.publications.poll(20_000)
        assert self.publications.recv()[:1] == b"\1"

    def publish(self, number: int, content: bytes | None = None) -> None:
        sent = payload(float(number)) if content is None else content
        self.publications.send_multipart([b"", number.to_bytes(8, "big"), sent])

    async def answer_replay(self, *numbers: int) -> int:
        """Answer the next request with these messages; return from where it asked."""
        assert await asyncio.to_thread(self.replays.poll, 20_000)
        client, _, first = self.replays.recv_multipart()
        for number in numbers:
            message = [client, b"", b"", number.to_bytes(8, "big"), payload(float(number))]
            self.replays.send_multipart(message)
        self.replays.send_multipart([client, b"", b"", END_OF_REPLAY, b""])
        return int.from_bytes(first, "big")


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher()
    yield made
    made.context.destroy(linger=0)


@contextlib.asynccontextmanager
async def reading(address: KvEventAddress) -> AsyncIterator[Listener]:
    listener = Listener()
    source = KvEventSource(listener)
    try:
        source.follow(W, address)
        assert listener.followed == [W]
        yield listener
    finally:
        source.close()
        assert listener.followed == []


@pytest.fixture
def worker_s_publisher() -> Iterator[KvEventPublisher]:
    made = KvEventPublisher(endpoint="tcp://127.0.0.1:*")
    yield made
    made.close()


async def test_what_a_worker_publishes_is_heard(worker_s_publisher: KvEventPublisher) -> None:
    stored = blocks_stored(block_hashes=[7, 8], parent_block_hash=None, token_ids=[1, 2, 3, 4], block_size=2)
    removed = BlockRemoved(block_hashes=[7], medium="GPU")
    async with reading(KvEventAddress(endpoint=worker_s_publisher.endpoint)) as listener:
        while listener.heard.empty():  # what is published before the connection stands goes nowhere
            worker_s_publisher.publish([stored, removed, AllBlocksCleared()])
            await asyncio.sleep(0)
        heard = await listener.next()

    assert isinstance(heard, CacheReport)
    assert list(heard.changes) == [Stored([7, 8]), Removed([7]), Cleared()]


async def test_a_gap_is_replayed(publisher: Publisher) -> None:
    async with reading(publisher.address) as listener:
        publisher.await_subscriber()
        for number in (3, 6, 7):
            publisher.publish(number)

        assert await publisher.answer_replay(4, 5, 6) == 4
        assert [await listener.next() for _ in range(5)] == [report(float(n)) for n in (3, 4, 5, 6, 7)]


async def test_a_gap_that_cannot_be_filled_is_told(publisher: Publisher) -> None:
    async with reading(publisher.address) as listener:
        publisher.await_subscriber()
        publisher.publish(0)
        publisher.publish(5)

        await publisher.answer_replay()
        assert [await listener.next() for _ in range(3)] == [report(0.0), "lost", report(5.0)]


async def test_a_publisher_that_starts_over_is_another_one(publisher: Publisher) -> None:
    async with reading(publisher.address) as listener:
        publisher.await_subscriber()
        publisher.publish(4)
        publisher.publish(0)

        assert [await listener.next() for _ in range(3)] == [report(4.0), "lost", report(0.0)]


async def test_after_a_message_that_cannot_be_read_nothing_earlier_is_believed(publisher: Publisher) -> None:
    async with reading(publisher.address) as listener:
        publisher.await_subscriber()
        publisher.publish(0, b"\xc1")
        publisher.publish(1)

        assert [await listener.next() for _ in range(2)] == ["lost", report(1.0)]


async def test_thousands_of_messages_are_heard_in_order(publisher: Publisher) -> None:
    async with reading(publisher.address) as listener:
        publisher.await_subscriber()
        for number in range(3000):
            publisher.publish(number)

        assert [await listener.next() for _ in range(3000)] == [report(float(n)) for n in range(3000)]


async def test_a_bad_endpoint_is_a_clear_error() -> None:
    listener = Listener()
    source = KvEventSource(listener)
    try:
        with pytest.raises(KvEventsUnavailableError, match="cannot connect to tcp://nowhere"):
            source.follow(W, KvEventAddress(endpoint="tcp://nowhere"))
    finally:
        source.close()
    assert listener.followed == []


def test_only_blocks_of_the_memory_that_attention_reads_count() -> None:
    events = [
        {"type": "BlockStored", "block_hashes": [1], "medium": "CPU", "token_ids": [1]},
        {"type": "BlockStored", "block_hashes": [2], "medium": "GPU", "kv_cache_spec_sliding_window": 128},
        {"type": "BlockStored", "block_hashes": [b"\1" * 24 + b"\0" * 7 + b"\5"], "medium": None, "new": {}},
        {"type": "BlockRemoved", "block_hashes": [1], "medium": "CPU"},
    ]

    read = read_report(msgspec.msgpack.encode([12.5, events, 0, "added later"]))
    assert read == CacheReport(ts=12.5, changes=[Stored([5])])


@pytest.mark.parametrize(
    "fields",
    [{"endpoint": "http://x:1"}, {"endpoint": "tcp://*:1"}, {"endpoint": "tcp://x:1", "replay": "y"}],
)
def test_an_address_is_one_to_connect_to(fields: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, KvEventAddress)


def test_without_zmq_the_module_loads_and_says_what_is_missing() -> None:
    code = """
import sys
sys.modules["zmq"] = None
from baton.proxy.kv_event_source import KvEventSource, KvEventsUnavailableError
from baton.proxy.routing.cache_events import CacheEvents
from baton.proxy.routing.prefix_index import PrefixIndex
try:
    KvEventSource(CacheEvents(PrefixIndex(max_bytes=1 << 20, max_age_s=1.0, now=0.0)))
except KvEventsUnavailableError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "needs pyzmq" in done.stdout

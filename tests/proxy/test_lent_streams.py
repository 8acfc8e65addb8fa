"""Streams that the relay in C has taken over fare as any other: over real sockets, whatever befalls them."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from baton.proxy.config import Timeouts

from .fakes import DONE, Behaviour, Connection, FakeWorker, RawClient, Request, chat, chat_chunk, chunked
from .house import House, housed, pair, two_pairs
from .lanes import HEAD

pytestmark = pytest.mark.usefixtures("relays_natively")

END = b"0\r\n\r\n"
TEXTS = [f"word{number} " for number in range(12)]


def streams(*, then: Behaviour | None = None) -> Behaviour:
    """Stream an event each time it is told to go on; at last end in good order, or as `then` does."""

    async def behave(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.begin_stream()
        for text in TEXTS:
            await connection.chunk(chat_chunk(text))
            await worker.go_on.wait()
            worker.go_on.clear()
        if then is not None:
            await then(worker, connection, request)
        else:
            await connection.send(chunked(DONE) + END)

    return behave


async def whole(worker: FakeWorker, connection: Connection, request: Request) -> None:
    """Give the same answer without being told to go on."""
    await connection.begin_stream()
    for text in TEXTS:
        await connection.chunk(chat_chunk(text))
    await connection.send(chunked(chat_chunk("and so on")) + chunked(DONE) + END)


def dies(*, with_bytes: bytes = b"") -> Behaviour:
    async def behave(worker: FakeWorker, connection: Connection, request: Request) -> None:
        if with_bytes:
            await connection.send(with_bytes)
        connection.die()

    return behave


async def falls_silent(worker: FakeWorker, connection: Connection, request: Request) -> None:
    worker.hanging.set()
    await connection.until_closed()


def is_lent(house: House) -> bool:
    return all(exchange._leg._lent is not None for exchange in house.proxy.hub.exchanges)  # type: ignore[attr-defined]


async def follow(worker: FakeWorker, client: RawClient) -> bytes:
    """Have the worker go on each time the client has an event; return what the client got."""
    got = b""
    for text in TEXTS:
        got += await client.reader.readuntil(text.encode())
        if text != TEXTS[-1]:
            worker.go_on.set()
    return got


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with housed(*two_pairs()) as house:
        yield house


def deciders(house: House) -> tuple[FakeWorker, FakeWorker]:
    """Return the decode worker that is asked first, and the other."""
    first, second = (worker for worker in house.workers if worker.role == "decode")
    return first, second


async def begun(
    house: House, client: RawClient, then: Behaviour | None = None, **fields: object
) -> FakeWorker:
    """Begin a stream and follow it until its worker is about to end it; return the worker."""
    first = house.decode
    first.next.append(streams(then=then))
    await client.post(chat(**({"temperature": 0} | fields)), "X-Request-Id: r")
    await follow(first, client)
    assert is_lent(house)
    return first


async def test_a_stream_comes_whole_and_both_connections_serve_again() -> None:
    async with housed(*pair()) as house, house.connect() as client:
        worker = await begun(house, client)
        worker.go_on.set()
        rest = await client.answer_rest()
        relayed_bytes = house.proxy.hub.counters.bytes_relayed
        connections = worker.connections
        await client.post(chat())
        again = await client.answer()

    events = b"".join(chunked(chat_chunk(text)) for text in TEXTS)
    assert rest.endswith(chunked(DONE) + END)
    assert relayed_bytes == len(HEAD + events + chunked(DONE) + END)
    assert again.text == "one two"
    assert (worker.connections, len(worker.requests)) == (connections, 2)


async def test_without_the_compiled_relay_all_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "baton.proxy.chunk_relay", None)
    async with housed(*pair()) as house, house.connect() as client:
        assert house.proxy.hub.native is None
        house.decode.next.append(streams())
        await client.post(chat())
        await follow(house.decode, client)
        assert not is_lent(house)
        house.decode.go_on.set()

        assert (await client.answer_rest()).endswith(END)


@pytest.mark.parametrize(
    "cut", [b"", b"2", chunked(chat_chunk("and so on"))[:30], chunked(chat_chunk("and"))]
)
async def test_a_stream_whose_worker_dies_is_continued(house: House, cut: bytes) -> None:
    async with house.connect() as client:
        first = await begun(house, client, dies(with_bytes=cut))
        _, second = deciders(house)
        second.usual = whole
        first.go_on.set()
        rest = await client.answer_rest()

    text = b"and so on" if not cut.endswith(b"\r\n") else b" so on"
    assert rest.count(text) == 1
    assert TEXTS[-1].encode() not in rest
    assert rest.endswith(DONE + b"\r\n" + END)
    assert house.proxy.hub.router.counts.resumed == 1


@pytest.mark.parametrize("cut", [b"", chunked(chat_chunk("and so on"))[:30]])
async def test_one_that_cannot_be_continued_ends_by_an_error_event(house: House, cut: bytes) -> None:
    async with house.connect() as client:
        worker = await begun(house, client, dies(with_bytes=cut), n=2)
        worker.go_on.set()
        rest = await client.answer_rest()
        await client.post(chat(stream=False))

        assert b"stream_broken" in rest
        assert (await client.answer()).status == 200


async def test_one_whose_worker_falls_silent_ends_in_time() -> None:
    timeouts = Timeouts(between_chunks_s=0.2)
    async with housed(*pair(), timeouts=timeouts) as house, house.connect() as client:
        worker = await begun(house, client, falls_silent, n=2)
        worker.go_on.set()

        assert b"stream_broken" in await client.answer_rest()


async def test_one_that_goes_on_is_not_taken_for_silent() -> None:
    async with housed(*pair(), timeouts=Timeouts(between_chunks_s=0.2)) as house, house.connect() as client:
        worker = await begun(house, client, falls_silent, n=2)
        [exchange] = house.proxy.hub.exchanges
        now, late = exchange.now(), exchange.now() + 60.0  # type: ignore[attr-defined]
        exchange.overdue(late)  # type: ignore[attr-defined]

        assert exchange.due > late > now  # type: ignore[attr-defined]
        assert is_lent(house)
        exchange.overdue(late + 60.0)  # type: ignore[attr-defined]
        assert b"stream_broken" in await client.answer_rest()
        worker.go_on.set()


async def test_a_client_that_leaves_ends_its_stream(house: House) -> None:
    async with house.connect() as client:
        worker = await begun(house, client, falls_silent)
        worker.go_on.set()
        await worker.hanging.wait()
        client.leave()
        await worker.aborted.wait()

        assert worker.aborts == ["r"]


async def test_a_proxy_that_stops_ends_it_with_an_error_event() -> None:
    async with housed(*pair()) as house, house.connect() as client:
        worker = await begun(house, client, falls_silent)
        worker.go_on.set()
        await house.proxy.drain(0.05)
        rest = await client.answer_rest()

        assert b"stream_broken" in rest
        assert await client.at_end()


async def test_a_slow_client_gets_all_and_holds_its_worker_back() -> None:
    big = [chunked(chat_chunk(f"{number} " + "x" * 60_000)) for number in range(400)]
    sent = 0

    async def floods(worker: FakeWorker, connection: Connection, request: Request) -> None:
        nonlocal sent
        for each in big:
            await connection.send(each)
            sent += 1
        await connection.send(chunked(DONE) + END)

    async with housed(*pair()) as house, house.connect() as client:
        worker = await begun(house, client, floods)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        worker.go_on.set()
        [seen] = house.proxy.clients.open
        while not seen.stalled:
            await house.get("/health")
        stalled_at = -1
        while stalled_at != sent:
            stalled_at = sent
            await house.get("/health")
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.reader.readuntil(b"\r\n")  # of the last event that was followed
        flood = b"".join(big) + chunked(DONE) + END
        rest = await client.reader.readexactly(len(flood))

        assert stalled_at < len(big)
        assert rest == flood


async def test_hundreds_of_streams_at_once_come_whole_each_its_own() -> None:
    count = 200

    async def answers(worker: FakeWorker, connection: Connection, request: Request) -> None:
        name = request.json["user"]
        await connection.begin_stream()
        for text in TEXTS:
            await connection.chunk(chat_chunk(f"{name} {text}"))
            await worker.go_on.wait()
        await connection.send(chunked(DONE) + END)

    async def asks(house: House, number: int) -> str:
        return (await house.ask(chat(user=f"{number}"))).text

    async with housed(*two_pairs()) as house:
        for worker in deciders(house):
            worker.usual = answers
            worker.go_on.set()
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(asks(house, number)) for number in range(count)]

        for number, task in enumerate(asking):
            assert task.result() == "".join(f"{number} {text}" for text in TEXTS)

"""A stream whose decode worker dies is whole all the same, or ends by an error event, never doubled or cut.

The workers give the same answer, in pieces of their own.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from baton.proxy.config import Limits, Timeouts
from baton.proxy.notes import FRAMING_EVENTS
from baton.proxy.resumption import ResumableExchange
from baton.proxy.routing.view import RequestView

from .fake_sglang import Bootstrap
from .fakes import DONE, MODEL, Behaviour, Connection, FakeWorker, Request, chat, chunked, event, fails, says
from .house import House, housed, pair, two_pairs

WORDS = ["one ", "two ", "three ", "four ", "five"]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD_BY_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 5}


def word(text: str, request: Request, finish: str | None = None) -> bytes:
    name = request.headers["x-request-id"]
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return event(
        id=f"chatcmpl-{name}", object="chat.completion.chunk", created=7, model=MODEL, choices=[choice]
    )


def whole_events(request: Request, *, per_event: int = 1) -> list[bytes]:
    """The answer that every worker gives, in pieces of its own."""
    pieces = ["".join(WORDS[at : at + per_event]) for at in range(0, len(WORDS), per_event)]
    ends = [None] * (len(pieces) - 1) + ["stop"]
    events = [word(text, request, end) for text, end in zip(pieces, ends, strict=True)]
    return [*events, event(id="x", created=7, choices=[], usage=USAGE), DONE]


def dies_after(count: int, *, cut_bytes: int = 0) -> Behaviour:
    """Stream `count` events, and so many bytes of the next, then die once told to go on."""

    async def behave(worker: FakeWorker, connection: Connection, request: Request) -> None:
        events = whole_events(request)
        await connection.begin_stream()
        for each in events[:count]:
            await connection.chunk(each)
        if cut_bytes:
            await connection.send(chunked(events[count])[:cut_bytes])
        worker.said.set()
        await worker.go_on.wait()
        connection.die()

    return behave


async def serves(worker: FakeWorker, connection: Connection, request: Request) -> None:
    await connection.begin_stream()
    for each in whole_events(request, per_event=2):
        await connection.chunk(each)
    await connection.send(b"0\r\n\r\n")


async def serves_something_else(worker: FakeWorker, connection: Connection, request: Request) -> None:
    await connection.begin_stream()
    await connection.chunk(word("eins zwei drei", request))


def deciders(house: House) -> tuple[FakeWorker, FakeWorker]:
    """Return the decode worker that is asked first, and the other."""
    first, second = (worker for worker in house.workers if worker.role == "decode")
    return first, second


async def streamed(house: House, body: bytes | None = None) -> Any:
    return await house.ask(body or chat(temperature=0), "X-Request-Id: r")


def told(answer: Any) -> tuple[str, list[str | None], int]:
    """Return text, ends and usages of a streamed chat."""
    events = [each for each in answer.events if each != "[DONE]"]
    choices = [choice for each in events for choice in each.get("choices", ())]
    text = "".join(choice["delta"]["content"] for choice in choices)
    return (
        text,
        [c["finish_reason"] for c in choices if c["finish_reason"]],
        sum("usage" in e for e in events),
    )


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("cut_bytes", [0, 1, 40])
async def test_a_stream_is_whole_wherever_its_worker_dies(count: int, cut_bytes: int) -> None:
    async with housed(*two_pairs()) as house:
        first, second = deciders(house)
        first.next.append(dies_after(count, cut_bytes=cut_bytes))
        first.go_on.set()
        second.usual = serves
        answer = await streamed(house)
        explained = (await house.get("/route/explain/r")).json

        assert answer.complete
        assert told(answer) == ("".join(WORDS), ["stop"], 1)
        assert answer.events[-1] == "[DONE]"
        assert {each["id"] for each in answer.events[: len(WORDS)] if "id" in each} >= {"chatcmpl-r"}
        if (count, cut_bytes) == (6, 40):  # all but the end of the framing was there
            assert len(explained["decisions"]) == 1
        else:
            assert house.proxy.hub.router.counts.resumed == 1
            assert [each["failed_leg"] for each in explained["decisions"]] == ["decode", None]


async def test_the_answer_keeps_its_name_and_the_connection_goes_on() -> None:
    async with housed(*two_pairs()) as house, house.connect() as client:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        first.go_on.set()
        second.usual = serves
        await client.post(chat(temperature=0), "X-Request-Id: r")
        answer = await client.answer()
        await client.post(chat(stream=False))
        again = await client.answer()

        names = {each["id"] for each in answer.events if each != "[DONE]" and each["choices"]}
        assert names == {"chatcmpl-r"}
        assert again.status == 200


async def test_without_a_seed_our_workers_get_one_and_the_same_at_both_attempts() -> None:
    async with housed(*two_pairs()) as house:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        first.go_on.set()
        second.usual = serves
        answer = await streamed(house, chat())

        assert told(answer)[0] == "".join(WORDS)
        seeds = [worker.requests[0].json["seed"] for worker in (first, second)]
        assert seeds[0] == seeds[1]
        assert all("seed" not in r.json for w in house.workers if w.role == "prefill" for r in w.requests)


async def test_a_seed_of_the_clients_is_its_own_and_greedy_requests_get_none() -> None:
    async with housed(*pair()) as house:
        await house.ask(chat(seed=5))
        await house.ask(chat(temperature=0))
        await house.ask(chat(stream=False))
        bodies = [request.json for request in house.decode.requests]

        assert [body.get("seed") for body in bodies] == [5, None, None]


async def test_another_answer_is_not_mixed_in() -> None:
    async with housed(*two_pairs()) as house:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        first.go_on.set()
        second.usual = serves_something_else
        answer = await streamed(house)
        await house.settled()

        assert answer.complete
        assert told(answer)[0] == "one two "
        assert answer.events[-1]["error"]["code"] == "stream_broken"
        assert second.aborts == ["r-retry1"]


NOT_CONTINUED = {
    "several answers": {"n": 2, "temperature": 0},
    "logprobs": {"logprobs": True, "temperature": 0},
    "token ids": {"return_token_ids": True, "temperature": 0},
}


@pytest.mark.parametrize("fields", NOT_CONTINUED.values(), ids=NOT_CONTINUED.keys())
async def test_what_cannot_be_continued_truthfully_ends_by_an_error_event(fields: dict[str, Any]) -> None:
    async with housed(*two_pairs()) as house:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        first.go_on.set()
        answer = await streamed(house, chat(**fields))

        assert answer.events[-1]["error"]["code"] == "stream_broken"
        assert second.requests == []


async def test_a_stream_on_a_worker_of_another_kind_is_continued_only_if_it_repeats_itself() -> None:
    workers = [FakeWorker(role, kind="vllm") for role in ("prefill", "decode") for _ in range(2)]
    async with housed(*workers) as house:
        first, second = deciders(house)
        second.usual = first.usual = serves
        for worker in (first, second):
            worker.go_on.set()
            worker.next.append(dies_after(2))
        loose = await streamed(house, chat(temperature=0.5))
        first.next.clear()
        second.next.clear()
        (first if len(first.requests) == 0 else second).next.append(dies_after(2))
        bound = await streamed(house, chat(temperature=0.5, seed=1))

        assert loose.events[-1]["error"]["code"] == "stream_broken"
        assert told(bound)[0] == "".join(WORDS)


@pytest.mark.parametrize("limits", [Limits(replay_bytes=0), Limits(lost_attempts=1)])
async def test_without_budget_or_attempts_left_the_stream_ends_by_an_error_event(limits: Limits) -> None:
    async with housed(*two_pairs(), limits=limits) as house:
        first, _ = deciders(house)
        first.next.append(dies_after(2))
        first.go_on.set()

        assert (await streamed(house)).events[-1]["error"]["code"] == "stream_broken"


async def test_of_streams_beyond_the_budget_the_longest_is_dropped() -> None:
    async with housed(*two_pairs(), limits=Limits(replay_bytes=1000)) as house, house.connect() as client:
        first, second = deciders(house)
        second.usual = serves
        first.next.append(dies_after(5))
        await client.post(chat(temperature=0))
        await first.said.wait()
        await client.reader.readuntil(b"five")
        replays = house.proxy.hub.replays
        assert replays.kept_bytes > 1000
        replays.look()
        assert replays.kept_bytes == 0
        first.go_on.set()
        answer = await client.answer_rest()

        assert answer.endswith(b"0\r\n\r\n")
        assert b"stream_broken" in answer


async def test_what_is_being_taken_up_again_is_not_dropped_for_the_budget() -> None:
    async def serves_later(worker: FakeWorker, connection: Connection, request: Request) -> None:
        worker.hanging.set()
        await worker.go_on.wait()
        await serves(worker, connection, request)

    async with asyncio.TaskGroup() as tasks, housed(*two_pairs(), limits=Limits(replay_bytes=1)) as house:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        first.go_on.set()
        second.next.append(serves_later)
        asking = tasks.create_task(streamed(house))
        await second.hanging.wait()
        house.proxy.hub.replays.look()
        second.go_on.set()
        answer = await asking

        assert told(answer)[0] == "".join(WORDS)


async def test_what_is_being_taken_up_again_counts_against_the_budget_of_the_others() -> None:
    async def never_answers(worker: FakeWorker, connection: Connection, request: Request) -> None:
        worker.hanging.set()
        await connection.until_closed()

    long = chat(temperature=0, user="x" * 5000)
    limits = Limits(replay_bytes=6000)
    async with housed(*two_pairs(), limits=limits) as house, house.connect() as client:
        first, second = deciders(house)
        replays = house.proxy.hub.replays
        first.next.append(dies_after(2))
        first.go_on.set()
        second.next.append(never_answers)
        await client.post(long)
        await second.hanging.wait()
        resumed_bytes = replays.kept_bytes
        first.go_on.clear()
        first.next.append(dies_after(5))
        async with house.connect() as other:
            await other.post(chat(temperature=0))
            await other.reader.readuntil(b"five")
            assert replays.kept_bytes > limits.replay_bytes
            replays.look()

            assert resumed_bytes >= len(long) + len("one two ")
            assert replays.kept_bytes == resumed_bytes
            metrics = (await house.get("/metrics")).body.decode()
            assert f"baton_proxy_replay_bytes {float(resumed_bytes)}" in metrics
        client.leave()
        await second.aborted.wait()
        assert replays.kept_bytes == 0


def once_broken_off(house: House, act: Callable[[], None]) -> None:
    """Act between a stream's breaking off and its being read back, each in a turn of the loop of its own."""
    hub = house.proxy.hub

    def look() -> None:
        if hub.replays.resuming:
            act()
        else:
            hub.read_backs.add(look)

    hub.read_backs.add(look)


async def test_a_client_that_leaves_before_its_stream_is_read_back_ends_it() -> None:
    async with housed(*two_pairs()) as house, house.connect() as client:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        await client.post(chat(temperature=0), "X-Request-Id: r")
        await first.said.wait()
        await client.reader.readuntil(b"two ")
        [seen] = house.proxy.clients.open
        once_broken_off(house, seen.transport.abort)
        first.go_on.set()
        await first.aborted.wait()

        assert first.aborts == ["r"]
        assert second.requests == []
        assert house.proxy.hub.replays.kept_bytes == 0


async def test_a_proxy_that_ends_before_a_stream_is_read_back_says_so_in_it() -> None:
    async with housed(*two_pairs()) as house, house.connect() as client:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        await client.post(chat(temperature=0))
        await client.reader.readuntil(b"two ")
        [exchange] = house.proxy.hub.exchanges
        once_broken_off(house, exchange.shut_down)
        first.go_on.set()
        rest = await client.answer_rest()

        assert b"shutting down" in rest
        assert rest.endswith(b"0\r\n\r\n")
        assert second.requests == []


async def test_a_stream_that_waits_to_be_read_back_is_dropped_for_no_budget_and_no_deadline() -> None:
    async with housed(*two_pairs(), limits=Limits(replay_bytes=1)) as house, house.connect() as client:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        second.usual = serves
        await client.post(chat(temperature=0))
        await client.reader.readuntil(b"two ")
        [exchange] = house.proxy.hub.exchanges
        assert isinstance(exchange, ResumableExchange)

        def look_and_be_late() -> None:
            house.proxy.hub.replays.look()
            exchange.overdue(1e9)
            seen.append(len(house.proxy.hub.replays.resuming))

        seen = list[int]()
        once_broken_off(house, look_and_be_late)
        first.go_on.set()
        rest = await client.answer_rest()

        assert seen == [1]
        assert (rest.count(b"three"), rest.count(b"five"), rest.count(b"[DONE]")) == (1, 1, 1)


FAILS_AGAIN = {"500": fails(500), "400": fails(400), "dies": says(b""), "breaks off": dies_after(4)}


@pytest.mark.parametrize("failure", FAILS_AGAIN.values(), ids=FAILS_AGAIN.keys())
async def test_a_worker_that_fails_to_go_on_is_left_for_the_next(failure: Behaviour) -> None:
    workers = [FakeWorker("prefill"), *(FakeWorker("decode") for _ in range(3))]
    async with housed(*workers) as house:
        for worker in workers[1:]:
            worker.usual = serves
            worker.go_on.set()
        workers[1].next.append(dies_after(2))
        workers[2].next.append(failure)
        answer = await streamed(house)

        assert told(answer) == ("".join(WORDS), ["stop"], 1)


@pytest.mark.parametrize("failure", [fails(500), fails(400), says(b"")])
async def test_when_nobody_can_go_on_the_stream_ends_by_an_error_event_and_nothing_is_held(
    failure: Behaviour,
) -> None:
    async with housed(*two_pairs()) as house:
        first, second = deciders(house)
        first.next.append(dies_after(2))
        second.usual = failure
        first.go_on.set()
        second.go_on.set()
        answer = await streamed(house)

        assert answer.complete
        assert told(answer)[0] == "one two "
        assert answer.events[-1]["error"]["code"] == "stream_broken"


async def test_a_stream_without_chunks_is_continued_to_the_end_of_its_connection() -> None:
    async def by_close(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.send(HEAD_BY_CLOSE + b"".join(whole_events(request)[:2]))
        connection.die()

    async with housed(*two_pairs()) as house:
        first, second = deciders(house)
        first.next.append(by_close)
        second.usual = serves
        answer = await streamed(house)

        assert answer.body.decode().count("data: ") == len(answer.events)
        assert told(answer)[0] == "".join(WORDS)


async def test_a_silent_worker_is_left_and_its_stream_continued() -> None:
    async def falls_silent(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.begin_stream()
        await connection.chunk(whole_events(request)[0])
        await connection.until_closed()

    async with housed(*two_pairs(), timeouts=Timeouts(between_chunks_s=0.2)) as house:
        first, second = deciders(house)
        first.next.append(falls_silent)
        second.usual = serves
        answer = await streamed(house)
        await house.settled()

        assert told(answer)[0] == "".join(WORDS)
        assert first.aborts == ["r"]


async def test_a_client_that_leaves_while_its_stream_is_taken_up_again_ends_both() -> None:
    async def never_answers(worker: FakeWorker, connection: Connection, request: Request) -> None:
        worker.hanging.set()
        await connection.until_closed()

    async with housed(*two_pairs()) as house, house.connect() as client:
        first, second = deciders(house)
        first.next.append(dies_after(1))
        first.go_on.set()
        second.next.append(never_answers)
        await client.post(chat(temperature=0), "X-Request-Id: r")
        await second.hanging.wait()
        client.leave()
        await second.aborted.wait()

        assert second.aborts == ["r-retry1"]


async def test_a_drain_ends_a_stream_that_is_being_taken_up_again_by_an_error_event() -> None:
    async def never_answers(worker: FakeWorker, connection: Connection, request: Request) -> None:
        worker.hanging.set()
        await connection.until_closed()

    async with asyncio.TaskGroup() as tasks, housed(*two_pairs(), drain_grace_s=0.05) as house:
        first, second = deciders(house)
        first.next.append(dies_after(1))
        first.go_on.set()
        second.next.append(never_answers)
        asking = tasks.create_task(streamed(house))
        await second.hanging.wait()

    answer = asking.result()
    assert json.loads(answer.body.decode().rpartition("data: ")[2])["error"]["code"] == "stream_broken"


async def test_a_second_answer_to_one_request_is_not_told_and_its_connection_not_used_again() -> None:
    async def answers_twice(worker: FakeWorker, connection: Connection, request: Request) -> None:
        events = whole_events(request)
        await connection.begin_stream()
        await connection.chunk(events[0] + events[1])
        await go_on.wait()
        rest = b"".join(map(chunked, events[2:])) + b"0\r\n\r\n"
        await connection.send(rest + HEAD + chunked(word("again", request)))
        await connection.until_closed()
        left.set()

    async def by_turns(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await turns.pop(0)(worker, connection, request)

    go_on, left, turns = asyncio.Event(), asyncio.Event(), [dies_after(1), answers_twice, serves]
    workers = [FakeWorker("decode", usual=by_turns) for _ in turns]
    async with housed(FakeWorker("prefill"), *workers) as house, house.connect() as client:
        for worker in workers:
            worker.go_on.set()
        await client.post(chat(temperature=0))
        await client.reader.readuntil(b"two ")
        go_on.set()
        rest = await client.answer_rest()
        await left.wait()

        assert b"again" not in rest
        assert (rest.count(b"five"), rest.count(b"[DONE]")) == (1, 1)


async def test_no_sglang_pair_goes_on_with_a_stream_of_another_worker() -> None:
    bootstrap = Bootstrap()
    workers = [*pair(), *bootstrap.fleet()]
    async with housed(*workers, policy="round_robin") as house:
        workers[1].next.append(dies_after(2))
        workers[1].go_on.set()
        answer = await streamed(house)

        assert answer.complete
        assert answer.raw.count(b"HTTP/1.1 ") == 1
        assert told(answer)[0] == "one two "
        assert answer.events[-1]["error"]["code"] == "stream_broken"
    assert bootstrap.rooms == {}


async def test_a_stream_of_an_sglang_pair_is_not_continued_though_another_worker_was_asked_first() -> None:
    bootstrap = Bootstrap()

    async def breaks_off(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await bootstrap.enter(worker, request).prefill_is_here.wait()
        await dies_after(2)(worker, connection, request)

    first, third = FakeWorker("decode"), FakeWorker("decode")
    giver, taker = bootstrap.fleet()
    workers = [FakeWorker("prefill"), first, third, giver, taker]
    async with housed(*workers, policy="round_robin") as house:
        first.next.append(fails(500))
        taker.next.append(breaks_off)
        taker.go_on.set()
        third.usual = serves
        answer = await streamed(house, chat())

        assert [len(worker.requests) for worker in (first, taker, third)] == [1, 1, 0]
        assert answer.events[-1]["error"]["code"] == "stream_broken"


async def test_a_connection_that_was_to_end_with_the_answer_does_so_whoever_goes_on_with_it() -> None:
    async def closes(worker: FakeWorker, connection: Connection, request: Request) -> None:
        head = HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        await connection.send(head + b"".join(map(chunked, whole_events(request)[:2])))
        connection.die()

    async with housed(*two_pairs()) as house, house.connect() as client:
        first, second = deciders(house)
        first.next.append(closes)
        second.usual = serves
        await client.post(chat(temperature=0))
        answer = await client.answer()

        assert told(answer)[0] == "".join(WORDS)
        assert await client.at_end()


async def test_a_request_that_could_not_be_kept_gets_no_seed() -> None:
    async with housed(*pair(), limits=Limits(replay_bytes=0)) as house:
        await house.ask(chat())

        assert "seed" not in house.decode.requests[0].json


@pytest.mark.parametrize("broken", [False, True])
async def test_a_continued_answer_is_as_long_as_one_that_was_not_broken_off(broken: bool) -> None:
    async def serves_without_usage(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.begin_stream()
        await connection.send(b"".join(map(chunked, [*whole_events(request)[: len(WORDS)], DONE])))
        await connection.send(b"0\r\n\r\n")

    async def by_turns(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await turns.pop(0)(worker, connection, request)

    turns = [dies_after(4), serves_without_usage] if broken else [serves_without_usage]
    async with housed(*two_pairs(), policy="pair_cost") as house:
        for worker in deciders(house):
            worker.usual = by_turns
            worker.go_on.set()
        answer = await streamed(house)
        memory = house.proxy.hub.courses.default.memory
        expected = memory.expected_output_tokens(RequestView("x", MODEL, 1, 1000))

        assert house.proxy.hub.router.counts.resumed == broken
        assert told(answer)[0] == "".join(WORDS)
        assert expected == len(WORDS) + 1 - FRAMING_EVENTS

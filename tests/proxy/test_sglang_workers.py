"""SGLang pairs: both legs at once, nothing shown before prefill is done, a new room for every attempt."""

import asyncio
import json
from typing import Any

import pytest

from baton.proxy.config import Timeouts
from baton.proxy.routing.policy_file import DEFAULTS

from .fake_sglang import Bootstrap
from .fakes import (
    MODEL,
    Behaviour,
    Connection,
    FakeWorker,
    Request,
    chat,
    chat_chunk,
    completion,
    fails,
    hangs,
    says,
)
from .house import House, housed

FAILURES = {"500": fails(500), "429": fails(429), "closed": says(b"")}


@pytest.mark.parametrize("stream", [True, False])
async def test_both_legs_meet_and_the_answer_is_decodes(stream: bool) -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet()) as house:
        answer = await house.ask(chat(stream=stream), "X-Request-Id: r")

        assert (answer.status, answer.complete) == (200, True)
        text = answer.text if stream else answer.json["choices"][0]["message"]["content"]
        assert text == "one two"
        assert answer.headers["x-baton-prefill"] == house.prefill.name
        assert house.proxy.hub.router.counts.split == 1
    assert [sorted(room.seen) for room in bootstrap.rooms.values()] == [["decode", "prefill"]]
    assert bootstrap.violations == []


@pytest.mark.parametrize("policy", sorted(DEFAULTS))
async def test_no_policy_sends_a_decode_worker_anything_without_its_partner(policy: str) -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet(pairs=2), policy=policy) as house:
        for _ in range(3):
            assert (await house.ask(chat())).text == "one two"
    assert [sorted(room.seen) for room in bootstrap.rooms.values()] == [["decode", "prefill"]] * 3
    assert bootstrap.violations == []


async def test_what_decode_says_is_withheld_until_prefill_is_done() -> None:
    bootstrap, may_end = Bootstrap(), asyncio.Event()

    async def prefills_late(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await may_end.wait()
        await bootstrap.prefills(worker, connection, request)

    async def decodes_early(worker: FakeWorker, connection: Connection, request: Request) -> None:
        bootstrap.enter(worker, request)
        await connection.begin_stream()
        await connection.chunk(chat_chunk("x" * 300_000))  # more than is taken in before it may be shown
        worker.said.set()
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.send(b"0\r\n\r\n")

    async with housed(*bootstrap.fleet()) as house, house.connect() as client:
        house.prefill.next.append(prefills_late)
        house.decode.next.append(decodes_early)
        await client.post(chat())
        await house.decode.said.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.reader.read(1)
        may_end.set()
        answer = await client.answer()

        assert len(answer.text) == 300_000


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_a_failed_leg_ends_the_other_and_both_are_tried_in_a_new_room(
    leg: str, failure: Behaviour
) -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet(pairs=2)) as house:
        bad = house.prefill if leg == "prefill" else house.decode
        other = house.decode if leg == "prefill" else house.prefill
        bad.go_on.set()
        bad.next.append(failure)
        answer = await house.ask(chat(), "X-Request-Id: r")
        await house.settled()

        assert answer.text == "one two"
        assert other.aborts == ["r"]
    assert bootstrap.violations == []


async def test_an_abort_that_prefill_answers_with_200_is_a_failure() -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet(pairs=2)) as house:
        house.prefill.next.append(bootstrap.prefill_is_aborted)

        assert (await house.ask(chat())).text == "one two"
    assert len(bootstrap.rooms) == 2
    assert bootstrap.violations == []


@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_a_bad_request_is_answered_by_whoever_says_so(leg: str) -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet()) as house:
        (house.prefill if leg == "prefill" else house.decode).next.append(fails(400, message="too long"))
        answer = await house.ask(chat(), "X-Request-Id: r")
        await house.settled()

        assert (answer.status, answer.error["message"]) == (400, "too long")
        assert "r" in (house.decode if leg == "prefill" else house.prefill).aborts


async def test_a_prefill_worker_that_hangs_is_left_for_another() -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet(pairs=2), timeouts=Timeouts(prefill_s=0.2)) as house:
        house.prefill.next.append(hangs)
        answer = await house.ask(chat(), "X-Request-Id: r")
        await house.settled()

        assert answer.text == "one two"
        assert house.prefill.aborts == ["r"]


async def test_a_client_that_leaves_ends_both_legs_by_an_explicit_call() -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet()) as house:
        house.prefill.next.append(hangs)
        async with house.connect() as client:
            await client.post(chat(), "X-Request-Id: r")
            await house.prefill.hanging.wait()
            client.leave()
        await house.prefill.aborted.wait()
        await house.decode.aborted.wait()
        await house.settled()

        assert (house.prefill.aborts, house.decode.aborts) == (["r"], ["r"])


async def test_without_a_prefill_worker_decode_workers_serve_nothing() -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet()) as house:
        await house.prefill.kill()
        answers = [await house.ask(chat()) for _ in range(2)]

        assert [answer.status for answer in answers] == [503, 503]
        await house.prefill.start()
        await house.proxy.until_ready(complete=True)
        assert (await house.ask(chat())).text == "one two"


async def test_a_list_of_prompts_gets_a_room_each() -> None:
    bodies: list[Any] = []

    async def notes(worker: FakeWorker, connection: Connection, request: Request) -> None:
        bodies.append(request.json)
        await connection.answer(200, b'{"choices": []}')

    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet()) as house:
        house.prefill.usual = house.decode.usual = notes
        body = json.dumps({"model": MODEL, "prompt": ["a", "b"], "bootstrap_room": 7}).encode()
        await house.ask(body, path="/v1/completions")

    first, second = bodies
    assert first["bootstrap_room"] == second["bootstrap_room"]
    assert len(set(first["bootstrap_room"])) == 2
    assert 7 not in first["bootstrap_room"]
    assert first["bootstrap_port"] == [house.prefill.bootstrap_port] * 2


async def test_a_client_cannot_choose_the_room() -> None:
    bootstrap = Bootstrap()
    async with housed(*bootstrap.fleet()) as house:
        await ask_twice(house, chat(bootstrap_room=1, bootstrap_host="10.0.0.1", rid="x"))
    assert len(bootstrap.rooms) == 2
    assert bootstrap.violations == []


async def ask_twice(house: House, body: bytes) -> None:
    for _ in range(2):
        assert (await house.ask(body)).text == "one two"


async def test_a_worker_of_both_roles_serves_alone() -> None:
    alone = FakeWorker("both", kind="sglang")
    async with housed(alone) as house:
        answer = await house.ask(chat())

        assert answer.text == "one two"
        assert "bootstrap_room" not in alone.requests[0].json


async def test_no_room_is_used_again_when_a_kept_connection_ends_under_its_request() -> None:
    bootstrap = Bootstrap()

    async def enters_and_dies(worker: FakeWorker, connection: Connection, request: Request) -> None:
        bootstrap.enter(worker, request)
        connection.die()

    for role in ("prefill", "decode"):
        async with housed(*bootstrap.fleet(pairs=2)) as house:
            for _ in range(4):
                assert (await house.ask(chat())).text == "one two"
            for worker in house.workers:
                if worker.role == role:
                    worker.next.append(enters_and_dies)
                    break
            for _ in range(4):
                assert (await house.ask(chat())).text == "one two"
    assert bootstrap.violations == []


async def test_an_answer_that_is_whole_outlives_its_connection_until_prefill_is_done() -> None:
    bootstrap, may_end = Bootstrap(), asyncio.Event()

    async def prefills_late(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await may_end.wait()
        await bootstrap.prefills(worker, connection, request)

    async def answers_and_dies(worker: FakeWorker, connection: Connection, request: Request) -> None:
        bootstrap.enter(worker, request)
        await connection.answer(200, completion("one two"))
        connection.writer.close()
        await connection.until_closed()
        worker.left.set()

    async with housed(*bootstrap.fleet()) as house, house.connect() as client:
        house.prefill.next.append(prefills_late)
        house.decode.next.append(answers_and_dies)
        await client.post(chat(stream=False))
        await house.decode.left.wait()
        while house.proxy.hub.pools[house.decode.name].connections:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0)
        may_end.set()
        answer = await client.answer()

        assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, "one two")
        assert len(house.decode.requests) == 1

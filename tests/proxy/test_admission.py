"""Admission over real sockets: who waits, who starts, who is refused, and that no slot is left behind."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from baton.proxy.config import ConfigError
from baton.proxy.routing.admission_config import AdmissionConfig

from .fakes import Answer, FakeWorker, chat, fails, hangs
from .house import House, housed, pair

SMALL_KV = 300
ONE = chat(max_tokens=200)
"""Takes most of a worker with `SMALL_KV`: two do not fit."""


def small_pair() -> tuple[FakeWorker, FakeWorker]:
    return FakeWorker("prefill"), FakeWorker("decode", kv_tokens_capacity=SMALL_KV)


@contextlib.asynccontextmanager
async def full(house: House) -> AsyncIterator[None]:
    """Have one request hold the decode worker's slot; then its client leaves."""
    house.decode.next.append(hangs)
    async with house.connect() as first:
        await first.post(ONE)
        await house.decode.hanging.wait()
        yield


async def waiting(house: House, count: int) -> None:
    """Wait until so many requests are in the queue."""
    while house.proxy.hub.router.admission.waiting != count:  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0.005)


async def test_a_request_without_room_waits_and_starts_when_there_is_some() -> None:
    async with housed(*small_pair()) as house, asyncio.TaskGroup() as tasks:
        async with full(house):
            second = tasks.create_task(house.ask(ONE))
            await waiting(house, 1)
            assert len(house.prefill.requests) == 1  # prefill is not sent before the decode slot is granted
        answer = await second
        text = (await house.get("/metrics")).body.decode()

    assert answer.text == "one two"
    assert 'baton_proxy_admitted_total{queued="yes"} 1.0' in text
    assert "baton_proxy_queue_wait_seconds_count 2.0" in text


async def test_a_full_queue_answers_429_and_says_when_to_come_back() -> None:
    config = AdmissionConfig(queue_requests=0)
    async with housed(*small_pair(), admission=config) as house, full(house):
        answer = await house.ask(ONE)
        text = (await house.get("/metrics")).body.decode()

    assert (answer.status, answer.error["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    assert 'baton_proxy_not_admitted_total{reason="queue_full"} 1.0' in text
    assert 'baton_proxy_requests_total{outcome="overloaded"} 1.0' in text


async def test_a_request_that_waited_as_long_as_it_may_is_answered_429() -> None:
    async with housed(*small_pair()) as house, full(house):
        answer = await house.ask(ONE, "X-Baton-Queue-Timeout-Ms: 30")

    assert (answer.status, answer.error["code"]) == (429, "queue_timeout")


async def test_a_higher_priority_goes_first() -> None:
    order: list[str] = []

    async def ask(house: House, priority: int) -> None:
        await house.ask(ONE, f"X-Baton-Priority: {priority}", f"X-Request-Id: p{priority}")
        order.append(f"p{priority}")

    async with housed(*small_pair()) as house, asyncio.TaskGroup() as tasks, full(house):
        tasks.create_task(ask(house, 0))
        await waiting(house, 1)
        tasks.create_task(ask(house, 5))
        await waiting(house, 2)

    assert [request.headers["x-request-id"] for request in house.prefill.requests[1:]] == ["p5", "p0"]
    assert order == ["p5", "p0"]


async def test_a_client_that_leaves_while_it_waits_makes_room_in_the_queue() -> None:
    async with housed(*small_pair()) as house, full(house):
        async with house.connect() as second:
            await second.post(ONE)
            await waiting(house, 1)
        await waiting(house, 0)
        text = (await house.get("/metrics")).body.decode()

    assert "baton_proxy_left_queue_total 1.0" in text


async def test_requests_wait_for_a_worker_that_is_to_come_back() -> None:
    config = AdmissionConfig(wait_without_workers_s=30.0)
    workers = small_pair()
    workers[1].ready = False
    async with housed(*workers, waits=False, admission=config) as house, asyncio.TaskGroup() as tasks:
        await house.proxy.until(lambda: bool(house.proxy.hub.router.fleet.models))
        asked = tasks.create_task(house.ask(ONE))
        await waiting(house, 1)
        workers[1].ready = True
        answer = await asked

    assert answer.text == "one two"


async def test_with_the_last_decode_worker_gone_those_who_wait_are_told() -> None:
    async with housed(*small_pair()) as house, asyncio.TaskGroup() as tasks, full(house):
        second = tasks.create_task(house.ask(ONE))
        await waiting(house, 1)
        await house.decode.kill()
        answer = await second

    assert (answer.status, answer.error["code"]) == (503, "unavailable")


async def test_a_drain_refuses_those_who_wait() -> None:
    answers: list[Answer] = []

    async def ask(house: House) -> None:
        answers.append(await house.ask(ONE))

    async with asyncio.TaskGroup() as tasks, housed(*small_pair(), drain_grace_s=0.05) as house:
        house.decode.next.append(hangs)
        tasks.create_task(ask(house))
        await house.decode.hanging.wait()
        tasks.create_task(ask(house))
        await waiting(house, 1)

    assert [answer.status for answer in answers] == [503, 503]


async def test_a_slot_moves_with_a_request_whose_worker_failed_although_the_other_is_full() -> None:
    workers = (FakeWorker("prefill"), *(FakeWorker("decode", kv_tokens_capacity=SMALL_KV) for _ in "12"))
    async with housed(*workers) as house, asyncio.TaskGroup() as tasks:
        _, first, second = workers
        second.next.append(hangs)
        first.next.append(hangs)
        async with house.connect() as one, house.connect() as two:
            await one.post(ONE)
            await first.hanging.wait()
            await two.post(ONE)
            await second.hanging.wait()
            third = tasks.create_task(house.ask(ONE))
            await waiting(house, 1)
            await first.kill()
            assert (await one.answer()).text == "one two"
            two.leave()
        assert (await third).text == "one two"
        assert house.proxy.hub.router.admission.counts.beyond_capacity >= 1


TENANTS = """
tenants:
  acme: {{weight: 3, queued_requests: 1}}
keys:
  - {{sha256: "{digest}", tenant: acme}}
"""


async def test_with_a_tenant_file_a_key_is_required_and_its_limits_hold(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    await asyncio.to_thread(file.write_text, TENANTS.format(digest=hashlib.sha256(b"secret").hexdigest()))
    key = "Authorization: Bearer secret"
    async with housed(*small_pair(), tenants_file=str(file)) as house, asyncio.TaskGroup() as tasks:
        keyless, wrong = await house.ask(ONE), await house.ask(ONE, "Authorization: Bearer x")
        house.decode.next.append(hangs)
        async with house.connect() as first:
            await first.post(ONE, key)
            await house.decode.hanging.wait()
            second = tasks.create_task(house.ask(ONE, key))
            await waiting(house, 1)
            third = await house.ask(ONE, key)
        served = await second

    assert (keyless.status, wrong.status) == (401, 401)
    assert (third.status, third.error["code"], served.status) == (429, "tenant_limit", 200)


async def test_a_tenant_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        async with housed(*pair(), tenants_file=str(tmp_path / "nowhere.yaml")):
            pass


async def test_overload_loses_nobody_and_leaves_no_slot() -> None:
    """Many more than fit, clients that leave and workers that fail among them: each gets an answer."""
    workers = (FakeWorker("prefill"), *(FakeWorker("decode", kv_tokens_capacity=2 * SMALL_KV) for _ in "12"))
    statuses: list[int] = []
    async with housed(*workers) as house:
        for worker in workers:
            worker.next.extend([fails(500)] * 3)

        async def asks(number: int) -> None:
            for turn in range(5):
                async with house.connect() as client:
                    await client.post(ONE, f"X-Baton-Priority: {number % 3}")
                    if (number + turn) % 7:
                        answer = await client.answer()
                        statuses.append(answer.status)

        async with asyncio.TaskGroup() as tasks:
            for number in range(40):
                tasks.create_task(asks(number))
        assert house.proxy.hub.router.admission.counts.started_after_wait > 20

    assert set(statuses) <= {200, 500}
    assert statuses.count(500) <= 9

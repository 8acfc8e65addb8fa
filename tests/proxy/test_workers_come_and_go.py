"""Workers are listed, drained and removed while requests run, and none of these is lost."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from baton.proxy import fleet_keeper
from baton.proxy.discovery.settings import FileSettings

from .fakes import DONE, Answer, Connection, FakeWorker, Request, chat, chat_chunk, chunked, decodes, hangs
from .house import House, housed, pair

TOKEN = "Authorization: Bearer secret"


@asynccontextmanager
async def administered(folder: Path, *workers: FakeWorker, **settings: Any) -> AsyncIterator[House]:
    file = folder / "token"
    await asyncio.to_thread(file.write_text, "secret\n")
    async with housed(*workers, admin_token_file=str(file), **settings) as house:
        yield house


async def call(house: House, method: str, path: str, *lines: str, body: bytes = b"") -> Answer:
    async with house.connect() as client:
        head = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines, "", ""]
        await client.send("\r\n".join(head).encode() + body)
        return await client.answer()


async def gone(house: House, worker: FakeWorker) -> None:
    """Wait until the proxy lists the worker no more."""
    await house.proxy.until(lambda: worker.name not in house.proxy.hub.router.fleet.workers)


async def in_rotation(house: House, worker: FakeWorker) -> None:
    fleet = house.proxy.hub.router.fleet
    await house.proxy.until(lambda: worker.name in fleet.workers and fleet.workers[worker.name].in_rotation)


async def test_admin_calls_need_the_token(tmp_path: Path) -> None:
    async with administered(tmp_path, *pair()) as house:
        path = f"/admin/workers/{house.decode.name}"
        without = await call(house, "DELETE", path)
        wrong = await call(house, "DELETE", path, "Authorization: Bearer guess")
        unknown = await call(house, "DELETE", "/admin/workers/nobody", TOKEN)
    async with housed(*pair()) as house:
        off = await call(house, "DELETE", f"/admin/workers/{house.decode.name}", TOKEN)

    assert [answer.status for answer in (without, wrong, unknown, off)] == [401, 401, 404, 403]


async def test_a_drained_worker_can_be_put_back(tmp_path: Path) -> None:
    async with administered(tmp_path, *pair()) as house:
        path = f"/admin/workers/{house.decode.name}/drain"
        drained = await call(house, "POST", path, TOKEN)
        unserved = await house.ask(chat())
        back = await call(house, "DELETE", path, TOKEN)
        served = await house.ask(chat())
        unknown = await call(house, "DELETE", "/admin/workers/nobody/drain", TOKEN)

    assert (drained.status, drained.json["draining"], unserved.status) == (202, True, 503)
    assert (back.status, back.json["draining"], served.text) == (200, False, "one two")
    assert unknown.status == 404


async def test_a_worker_that_is_being_removed_cannot_be_put_back(tmp_path: Path) -> None:
    async with administered(tmp_path, *pair()) as house, house.connect() as client:
        house.decode.next.append(hangs)
        await client.post(chat())
        await house.decode.hanging.wait()
        await call(house, "DELETE", f"/admin/workers/{house.decode.name}", TOKEN)
        answer = await call(house, "DELETE", f"/admin/workers/{house.decode.name}/drain", TOKEN)

    assert (answer.status, answer.error["code"]) == (409, "worker_leaving")


async def test_a_worker_is_added_and_gets_requests(tmp_path: Path) -> None:
    newcomer = FakeWorker("decode")
    await newcomer.start()
    async with administered(tmp_path, *pair()) as house:
        body = json.dumps({"url": newcomer.url, "role": "decode"}).encode()
        added = await call(house, "POST", "/admin/workers", TOKEN, body=body)
        again = await call(house, "POST", "/admin/workers", TOKEN, body=body)
        bad = await call(house, "POST", "/admin/workers", TOKEN, body=b'{"url": "nowhere", "role": "decode"}')
        await in_rotation(house, newcomer)
        for _ in range(4):
            assert (await house.ask(chat())).text == "one two"
        assert len(newcomer.requests) == 2
    await newcomer.kill()

    assert [answer.status for answer in (added, again, bad)] == [201, 409, 400]
    assert "url must read http://host:port" in bad.error["message"]


async def test_an_address_that_cannot_be_is_refused_and_its_name_stays_free(tmp_path: Path) -> None:
    async with administered(tmp_path, *pair()) as house:
        bad = [
            await call(house, "POST", "/admin/workers", TOKEN, body=json.dumps(worker).encode())
            for port in ("99999", "abc")
            for worker in [{"url": f"http://h:{port}", "role": "decode", "name": "d"}]
        ]

    assert [(answer.status, answer.error["code"]) for answer in bad] == [(400, "invalid_worker")] * 2


async def test_a_drained_worker_ends_its_stream_and_gets_nothing_new(tmp_path: Path) -> None:
    async with administered(tmp_path, *pair(), FakeWorker("decode")) as house:
        house.decode.next.append(waits_then_decodes)
        async with house.connect() as client:
            await client.post(chat())
            await house.decode.hanging.wait()
            drained = await call(house, "POST", f"/admin/workers/{house.decode.name}/drain", TOKEN)
            for _ in range(4):
                assert (await house.ask(chat())).text == "one two"
            house.decode.go_on.set()
            answer = await client.answer()
        fleet = (await house.get("/fleet")).json

        assert len(house.decode.requests) == 1
    assert (drained.json["draining"], drained.json["idle"], answer.text) == (True, False, "one two")
    assert [worker["state"] for worker in fleet["workers"]] == ["ready", "draining", "ready"]


async def waits_then_decodes(worker: FakeWorker, connection: Connection, request: Request) -> None:
    worker.hanging.set()
    await worker.go_on.wait()
    await decodes(worker, connection, request)


async def test_a_prefill_worker_is_kept_until_its_kv_is_pulled(tmp_path: Path) -> None:
    async with administered(tmp_path, *pair(), FakeWorker("prefill")) as house:
        house.decode.next.append(waits_then_decodes)
        async with house.connect() as client:
            await client.post(chat())
            await house.decode.hanging.wait()
            removed = await call(house, "DELETE", f"/admin/workers/{house.prefill.name}", TOKEN)
            worker = house.proxy.keeper.find(house.prefill.name)
            assert worker is not None
            assert (worker.prefill_requests, house.proxy.keeper.is_idle(worker)) == (0, False)
            house.decode.go_on.set()
            assert (await client.answer()).text == "one two"
        await gone(house, house.prefill)
        assert (await house.ask(chat())).text == "one two"

    assert removed.status == 202


async def test_a_prefill_worker_does_not_wait_for_streams_whose_kv_it_has_given_up(tmp_path: Path) -> None:
    async with administered(tmp_path, *pair(), FakeWorker("prefill")) as house:
        house.decode.next.append(streams_in_two_parts)
        async with house.connect() as client:
            await client.post(chat())
            await client.reader.readuntil(b"one")
            await call(house, "DELETE", f"/admin/workers/{house.prefill.name}", TOKEN)
            await gone(house, house.prefill)
            house.decode.go_on.set()
            rest = await client.answer_rest()

    assert b" two" in rest


async def streams_in_two_parts(worker: FakeWorker, connection: Connection, request: Request) -> None:
    await connection.begin_stream()
    await connection.chunk(chat_chunk("one"))
    await worker.go_on.wait()
    await connection.send(chunked(chat_chunk(" two")) + chunked(DONE) + b"0\r\n\r\n")


async def test_a_removal_that_takes_too_long_cuts_the_worker_and_the_request_is_served_elsewhere(
    tmp_path: Path,
) -> None:
    workers = (*pair(), FakeWorker("decode"))
    async with administered(tmp_path, *workers, worker_drain_s=0.1) as house:
        house.decode.next.append(hangs)
        async with house.connect() as client:
            await client.post(chat())
            await house.decode.hanging.wait()
            await call(house, "DELETE", f"/admin/workers/{house.decode.name}", TOKEN)
            answer = await client.answer()
        await gone(house, house.decode)

    assert (answer.text, answer.headers["x-baton-decode"]) == ("one two", workers[2].name)


async def test_a_removal_ends_though_what_was_cut_is_never_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_keeper, "CUT_S", 0.05)
    async with administered(tmp_path, *pair(), FakeWorker("decode"), worker_drain_s=0.05) as house:
        worker = house.proxy.keeper.find(house.decode.name)
        assert worker is not None
        worker.decode_requests += 1  # of a sibling that does not say any more that it ended
        await call(house, "DELETE", f"/admin/workers/{house.decode.name}", TOKEN)
        await gone(house, house.decode)
        assert (await house.ask(chat())).text == "one two"


async def test_workers_drained_and_removed_under_load_lose_no_request(tmp_path: Path) -> None:
    workers = (*pair(), *pair(), *pair())
    async with administered(tmp_path, *workers, policy="pair_cost") as house:
        over = asyncio.Event()
        served: list[str] = []

        async def asks() -> None:
            async with house.connect() as client:
                while not over.is_set():
                    await client.post(chat())
                    served.append((await client.answer()).text)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(asks())
            for worker in workers[:4]:
                await call(house, "DELETE", f"/admin/workers/{worker.name}", TOKEN)
                await gone(house, worker)
                body = json.dumps({"url": worker.url, "role": worker.role}).encode()
                if worker.role == "decode":
                    await call(house, "POST", "/admin/workers", TOKEN, body=body)
                    await in_rotation(house, worker)
            over.set()
        load = house.proxy.hub.courses.default.memory.load

    assert [worker.name for worker in workers if load.find(worker.name) is None] == [
        worker.name for worker in workers[:4] if worker.role == "prefill"
    ]
    assert len(served) > 20
    assert set(served) == {"one two"}


async def test_a_worker_file_lists_workers_and_takes_them_away(tmp_path: Path) -> None:
    file = tmp_path / "workers.yaml"
    newcomer = FakeWorker("decode")
    await newcomer.start()

    async def listing(*workers: FakeWorker) -> None:
        tree = {"workers": [{"url": worker.url, "role": worker.role} for worker in workers]}
        await asyncio.to_thread((tmp_path / "new").write_text, yaml.safe_dump(tree))
        await asyncio.to_thread(os.replace, tmp_path / "new", file)

    await listing()
    settings = (FileSettings(path=str(file), interval_s=0.02),)
    async with housed(*pair(), discovery=settings) as house:
        await listing(newcomer)
        await in_rotation(house, newcomer)
        await listing()
        await gone(house, newcomer)
        assert (await house.ask(chat())).text == "one two"
    await newcomer.kill()

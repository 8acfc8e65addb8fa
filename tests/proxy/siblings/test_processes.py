"""Several processes behind one port: they share the work, answer for each other, and outlive each other."""

import asyncio
import contextlib
import json
import os
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import yaml

from baton.proxy.siblings.metric_sums import SEEN_BY_ALL

from ..fakes import Answer, FakeWorker, chat, connected, hangs
from ..house import two_pairs
from ..test_server import RUN, python

TOKEN = "Authorization: Bearer secret"


class Proxies:
    """A proxy of several processes, and its workers."""

    def __init__(self, parent: Process, workers: tuple[FakeWorker, ...]) -> None:
        self.parent = parent
        self.workers = workers
        self.port = 0

    async def event(self, name: str) -> Any:
        assert self.parent.stdout is not None
        event = json.loads(await self.parent.stdout.readline())
        assert event["event"] == name, event
        return event

    @property
    def processes(self) -> list[int]:
        """Ids of the processes that serve."""
        listed = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    async def ask(self, request_id: str = "r") -> Answer:
        """Ask over a connection of its own, which the kernel gives to any of the processes."""
        async with connected(self.port) as client:
            await client.post(chat(), f"X-Request-Id: {request_id}")
            return await client.answer()

    async def call(self, path: str, method: str = "GET", *lines: str, body: bytes = b"") -> Answer:
        async with connected(self.port) as client:
            head = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines, "", ""]
            await client.send("\r\n".join(head).encode() + body)
            return await client.answer()

    async def metrics(self) -> dict[str, float]:
        text = (await self.call("/metrics")).body.decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {sample: float(value) for sample, _, value in (line.rpartition(" ") for line in lines)}

    async def until(self, holds: Callable[[], Any]) -> None:
        while not await holds():  # noqa: ASYNC110  it is other processes that change
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def proxies(folder: Path, count: int = 2, **settings: Any) -> AsyncIterator[Proxies]:
    workers = two_pairs()
    for worker in workers:
        await worker.start()
    (folder / "token").write_text("secret")
    config = {
        "port": 0,
        "processes": count,
        "policy": "round_robin",
        "workers": [{"url": worker.url, "role": worker.role} for worker in workers],
        "drain_grace_s": 5.0,
        "admin_token_file": str(folder / "token"),
        **settings,
    }
    (folder / "fleet.yaml").write_text(yaml.safe_dump(config))
    parent = await python(RUN, str(folder / "fleet.yaml"))
    running = Proxies(parent, workers)
    try:
        async with asyncio.timeout(90):
            running.port = (await running.event("listening"))["port"]
            await running.event("ready")
            yield running
    finally:
        if parent.returncode is None:
            parent.send_signal(signal.SIGTERM)
        await parent.communicate()
        for worker in workers:
            await worker.kill()


async def test_all_processes_serve_and_are_counted_as_one(tmp_path: Path) -> None:
    async with proxies(tmp_path) as running:
        answers = [await running.ask(f"r{number}") for number in range(40)]
        metrics = await running.metrics()
        fleet = (await running.call("/fleet")).json
        explained = [(await running.call(f"/route/explain/r{number}")).json for number in range(40)]
        unknown = await running.call("/route/explain/nobody")

    wire_ids = {r.headers["x-request-id"] for w in running.workers for r in w.requests}
    assert {answer.text for answer in answers} == {"one two"}
    assert {wire_id.endswith("-p1") for wire_id in wire_ids} == {True, False}
    assert metrics['baton_proxy_requests_total{outcome="served"}'] == 40
    assert metrics["baton_proxy_processes"] == 2
    assert metrics["baton_proxy_handovers_ended_total"] == 40
    assert sum(fleet["handovers"].values()) == 0
    assert fleet["processes"] == 2
    assert [each["request_id"] for each in explained] == [f"r{number}" for number in range(40)]
    assert unknown.status == 404


async def test_what_one_process_has_in_flight_every_process_sees(tmp_path: Path) -> None:
    async with proxies(tmp_path) as running, contextlib.AsyncExitStack() as clients:
        for worker in running.workers:
            worker.usual = hangs
        for _ in range(12):
            client = await clients.enter_async_context(connected(running.port))
            await client.post(chat())

        async def all_see_it() -> bool:
            views = [await running.metrics() for _ in range(6)]
            return all(in_flight(view) == 12 for view in views)

        await running.until(all_see_it)


def in_flight(metrics: dict[str, float]) -> float:
    name = SEEN_BY_ALL[2]
    return sum(v for k, v in metrics.items() if k.startswith(name) and 'leg="prefill"' in k)


async def test_an_admin_call_reaches_all_processes_and_those_that_start_later(tmp_path: Path) -> None:
    async with proxies(tmp_path) as running:
        gone = next(worker for worker in running.workers if worker.role == "decode")
        answer = await running.call(f"/admin/workers/{gone.name}/drain", "POST", TOKEN)
        served = len(gone.requests)
        for _ in range(20):
            await running.ask()
        os.kill(running.processes[0], signal.SIGKILL)
        await running.until(lambda: both_answer(running))
        for _ in range(20):
            await running.ask()

    assert (answer.status, answer.json["draining"], answer.json["idle"]) == (202, True, True)
    assert len(gone.requests) == served


async def both_answer(running: Proxies) -> bool:
    with contextlib.suppress(ConnectionError):
        return (await running.metrics()).get("baton_proxy_processes") == 2
    return False


async def test_a_process_that_dies_costs_its_own_streams_and_its_sibling_ends_them(tmp_path: Path) -> None:
    async with proxies(tmp_path) as running, contextlib.AsyncExitStack() as clients:
        for worker in running.workers:
            worker.next.extend([hangs] * 20)
        for _ in range(16):
            client = await clients.enter_async_context(connected(running.port))
            await client.post(chat())
        held = [worker for worker in running.workers if worker.role == "prefill"]
        await running.until(lambda: seen(held, 16))
        await asyncio.sleep(0.1)  # a batch of news
        os.kill(running.processes[-1], signal.SIGKILL)
        wire_ids = [r.headers["x-request-id"] for w in held for r in w.requests]
        await running.until(lambda: aborted(held, wire_ids))
        for worker in running.workers:
            worker.next.clear()
        await running.until(lambda: both_answer(running))

        assert (await running.metrics())["baton_proxy_orphans_total"] > 0
        assert (await running.ask()).text == "one two"


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def seen(workers: list[FakeWorker], count: int) -> bool:
    return sum(len(worker.requests) for worker in workers) >= count


async def aborted(workers: list[FakeWorker], wire_ids: list[str]) -> bool:
    """Whether one of the processes' requests were all aborted."""
    told = {wire_id for worker in workers for wire_id in worker.aborts}
    return any(
        mine and told >= mine
        for mine in ({w for w in wire_ids if w.endswith("-p1") is second} for second in (True, False))
    )


async def test_sigterm_drains_all_of_them(tmp_path: Path) -> None:
    async with proxies(tmp_path, count=3) as running:
        children = running.processes
        running.parent.send_signal(signal.SIGTERM)
        status = await running.parent.wait()

    assert (len(children), status) == (3, 0)
    assert not any(map(runs, children))


async def test_a_parent_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    async with proxies(tmp_path) as running:
        children = running.processes
        assert len(children) == 2
        running.parent.kill()
        while any(map(runs, children)):  # noqa: ASYNC110  they are nobody's children any more
            await asyncio.sleep(0.05)

    assert not any(map(runs, children))


async def test_what_keeps_a_process_from_starting_ends_all_with_one_line(tmp_path: Path) -> None:
    workers = [{"url": "http://127.0.0.1:1", "role": "decode"}]
    config = {"port": 0, "processes": 2, "workers": workers, "tenants_file": "nowhere.yaml"}
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(config))
    parent = await python(RUN, str(tmp_path / "fleet.yaml"))
    out, _ = await parent.communicate()

    assert parent.returncode == 1
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["fatal"]
    assert "nowhere.yaml" in json.loads(out)["message"]

"""Mock workers and load generator agree on what was asked, streamed and counted."""

from pathlib import Path

import msgspec
import pytest

from baton.bench.proxy.client import ask
from baton.bench.proxy.compiled import BenchError, Load, compile_program, running_mock_fleet
from baton.bench.proxy.cores import share_cores
from baton.bench.proxy.workloads import GROUP_PLACE, NUMBER_PLACE, WORKLOADS, Workload


def small(**changes: object) -> Workload:
    fields: dict[str, object] = {"name": "small", "prompt_bytes": 200, "connections": 4}
    return msgspec.convert({**fields, **changes}, Workload)


@pytest.mark.parametrize(
    "workload",
    [
        small(),
        small(prompt_bytes=64 * 1024),
        small(chunks=40),
        small(chunks=5, interval_us=2000, connections=16),
    ],
)
async def test_every_chunk_of_every_answer_is_counted(workload: Workload, tmp_path: Path) -> None:
    cores = share_cores()
    async with running_mock_fleet(1, 1, cores) as fleet:
        await fleet.follow(workload)
        load = Load(workload, fleet.ports.decode[0], cores, tmp_path)
        await load.start(0.1)
        report = await load.report()

    assert report.bad == 0
    assert report.requests >= workload.connections
    assert report.events == report.requests * workload.chunks
    assert report.statuses == {"200": report.requests}
    assert report.ttft_us[0] <= report.latency_us[0]
    assert report.latency_us[0] >= workload.interval_us * (workload.chunks - 1)


async def test_open_streams_stay_open_until_they_are_ended(tmp_path: Path) -> None:
    workload, cores = small(chunks=1000, interval_us=20_000, connections=50, once=True), share_cores()
    async with running_mock_fleet(1, 1, cores) as fleet:
        await fleet.follow(workload)
        load = Load(workload, fleet.ports.decode[0], cores, tmp_path)
        await load.start(10.0)
        await load.until_open()
        await fleet.end_streams()
        report = await load.report()

    assert (report.requests, report.bad) == (50, 0)
    assert report.events < 50 * 1000


async def test_a_prefill_worker_offers_kv() -> None:
    async with running_mock_fleet(1, 1, share_cores()) as fleet:
        body = msgspec.json.encode({"model": "mock", "stream": False, "messages": []})
        reply = await ask(fleet.ports.prefill[0], body)

    answer = msgspec.json.decode(reply.body)
    assert answer["kv_transfer_params"]["remote_port"] == fleet.ports.prefill[0]
    assert answer["kv_transfer_params"]["remote_block_ids"] == [[1]]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_body_has_its_size_and_both_places_once(workload: Workload) -> None:
    body = workload.body()
    prompt = msgspec.json.decode(body)["messages"][0]["content"]

    assert abs(len(prompt) - workload.prompt_bytes) <= 2
    assert prompt.startswith(GROUP_PLACE)
    assert body.count(GROUP_PLACE.encode()) == body.count(NUMBER_PLACE.encode()) == 1


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BenchError, match="no C compiler"):
        compile_program("load", tmp_path)

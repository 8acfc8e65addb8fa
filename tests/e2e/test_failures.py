"""What a killed worker costs: nothing that a client sees. Its streams are continued by another."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from baton.bench.fleet import RunningFleet, running_fleet
from baton.bench.leaks import find_leaks
from baton.bench.load import LoadPlan, LoadResult, run_load
from baton.bench.stream import Outcome
from support.fleets import CHECKSUMS, SMALL_POOL, Milestones

STREAMS = 12
IN_TURN = ("--proxy-set", "policy=round_robin")
"""Whichever worker is killed has streams, and gets some as soon as it serves again."""
SHORT_LEASES = ("--set", "kv_transfer.lease_ttl_s=8")
"""What a killed decode worker was granted is held to the lease's end."""


@pytest.fixture(scope="module")
def pairs(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningFleet]:
    """Two prefill and two decode workers."""
    log = tmp_path_factory.mktemp("pairs") / "log"
    flags = ("--prefill", "2", "--decode", "2", "--model", str(checkpoint("deepseek_v3")))
    settings = ("--served-model-name", "tiny", *IN_TURN)
    with running_fleet(log, *flags, *settings, *CHECKSUMS, *SMALL_POOL, *SHORT_LEASES) as running:
        yield running


@pytest.fixture
def groups(checkpoint: Callable[[str], Path], tmp_path: Path) -> Iterator[RunningFleet]:
    """A prefill worker and two groups of two decode ranks."""
    flags = ("--decode", "2", "--decode-ranks", "2", "--model", str(checkpoint("qwen3_moe")))
    settings = ("--served-model-name", "tiny", *IN_TURN, *CHECKSUMS, *SMALL_POOL, *SHORT_LEASES)
    with running_fleet(tmp_path / "log", *flags, *settings, start_timeout_s=180.0) as running:
        yield running


async def resumed_streams(fleet: RunningFleet) -> float:
    """Return how many streams another worker has continued so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{fleet.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith("baton_proxy_resumed_streams_total ")]
    return float(value)


async def kill_under_load(
    fleet: RunningFleet, name: str, *, most_s: float = 60.0, and_with_it: tuple[str, ...] = ()
) -> LoadResult:
    """Kill a worker in the midst of a load that goes on until it, and who ends with it, serve again."""
    plan = LoadPlan(
        url=fleet.url,
        model="tiny",
        streams=STREAMS,
        duration_s=most_s,
        min_facts=1,
        max_facts=4,
        max_tokens=256,
        extra={"ignore_eos": True},
    )
    milestones, stop = Milestones(), asyncio.Event()
    readies = {each: fleet.count("ready", each) for each in (name, *and_with_it)}
    async with asyncio.TaskGroup() as tasks:
        load = tasks.create_task(run_load(plan, stop=stop, on_answer=milestones.on_answer))
        await milestones.more(2 * STREAMS)
        os.kill(fleet.pid(name), signal.SIGKILL)
        for each, times in readies.items():
            await asyncio.to_thread(fleet.wait_for, "ready", each, times=times + 1, timeout_s=most_s)
            await served_by(each, milestones)
        stop.set()
    return load.result()


async def served_by(name: str, milestones: Milestones) -> None:
    """Wait for an answer that `name` had a part in."""
    while True:
        reports = [answer.baton for answer in await milestones.more(1) if answer.baton is not None]
        if any(name in (report.prefill_worker, report.decode_worker) for report in reports):
            return


async def test_a_killed_prefill_worker_costs_nothing(pairs: RunningFleet) -> None:
    result = await kill_under_load(pairs, "prefill-0")

    assert [(answer.outcome, answer.detail) for answer in result.failures(allowed=set())] == []
    assert await find_leaks(pairs.url, pairs.workers, settle_s=20.0) == []


async def test_streams_of_a_killed_decode_worker_are_whole(pairs: RunningFleet) -> None:
    for _ in range(3):  # at the moment of a kill all streams may be before their first token
        result = await kill_under_load(pairs, "decode-0")
        assert [(answer.outcome, answer.detail) for answer in result.failures(allowed=set())] == []
        if await resumed_streams(pairs) > 0:
            break
    assert await resumed_streams(pairs) > 0
    assert await find_leaks(pairs.url, pairs.workers, settle_s=40.0) == []


@pytest.mark.timeout(300)  # five engines start twice, on cores that other tests use too
async def test_a_killed_rank_ends_its_group_which_serves_again_while_the_other_goes_on(
    groups: RunningFleet,
) -> None:
    result = await kill_under_load(groups, "decode-1", most_s=180.0, and_with_it=("decode-0",))

    not_allowed = result.failures(allowed={Outcome.ERROR_EVENT})
    assert [(answer.outcome, answer.detail) for answer in not_allowed] == []
    assert result.outcomes[Outcome.ERROR_EVENT] <= STREAMS
    assert [groups.count("started", name) for name in ("decode-2", "decode-3")] == [1, 1]
    assert await find_leaks(groups.url, groups.workers, settle_s=40.0) == []


def test_an_interrupt_drains_and_leaves_no_process_behind(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with running_fleet(tmp_path / "log", "--model", str(checkpoint("qwen3_moe"))) as fleet:
        children = [fleet.pid(name) for name in ("prefill-0", "decode-0", "proxy")]

        assert fleet.stop() == 0

    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []

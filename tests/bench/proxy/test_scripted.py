"""Scripted workers answer both legs, fail as told, and see who leaves."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from baton.bench.proxy.client import ask
from baton.bench.proxy.faults import (
    Stage,
    chat,
    describe,
    leaves_mid_stream,
    requests,
)
from baton.bench.proxy.scripted import Script, ScriptedFleet, new_fleet
from baton.bench.proxy.systems import DIRECT, RunningSystem


@contextlib.asynccontextmanager
async def fleet_up() -> AsyncIterator[ScriptedFleet]:
    fleet = new_fleet()
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.stop()


def stage_of(fleet: ScriptedFleet) -> Stage:
    """Return a stage without a router: the first decode worker serves."""
    return Stage(fleet, RunningSystem(system=DIRECT, port=fleet.decode[0].port, pid=None))


async def test_prefill_offers_kv_and_decode_streams() -> None:
    async with fleet_up() as fleet:
        offer = await ask(fleet.prefill[0].port, msgspec.json.encode(chat(stream=False)))
        answer = await stage_of(fleet).ask()

    assert msgspec.json.decode(offer.body)["kv_transfer_params"]["do_remote_prefill"] is True
    assert (answer.served, answer.events) == (True, 8)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"status": 503}, "503"),
        ({"closes_unanswered": True}, "closed without an answer"),
        ({"closes_after_head": True}, "200, 0 tokens, no error event, cut short"),
        ({"dies_after_tokens": 3}, "200, 3 tokens, no error event, cut short"),
    ],
)
async def test_a_worker_fails_as_its_script_says(script: dict[str, Any], words: str) -> None:
    async with fleet_up() as fleet:
        fleet.decode[0].script = Script(**script)
        reply = await stage_of(fleet).ask()

    assert describe([reply]) == words


async def test_a_failure_is_a_loss_where_others_could_serve() -> None:
    async with fleet_up() as fleet:
        fleet.decode[0].script = Script(status=500)
        lost = await requests(stage_of(fleet), 2, keeps=True)
        allowed = await requests(stage_of(fleet), 2, keeps=False)

    assert (lost.lost, allowed.lost) == (True, False)
    assert lost.text.startswith("2/2 500; 0 P + 2 D calls")


async def test_a_worker_sees_its_client_leave() -> None:
    async with fleet_up() as fleet:
        seen = await leaves_mid_stream(stage_of(fleet))

    assert seen.text.startswith("aborted after")
    assert not seen.lost

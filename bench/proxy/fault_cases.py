"""The rows of the fault matrix, and how they are played on one router after another."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from .compiled import BenchError
from .cores import Cores
from .faults import (
    Case,
    Seen,
    Stage,
    all_decode,
    all_prefill,
    body_fidelity,
    chat,
    headers,
    kept_alive_ttft,
    leaves_during_prefill,
    leaves_mid_stream,
    odd,
    one_decode,
    one_prefill,
    refused,
    restarted,
    scripted,
)
from .scripted import Script, ScriptedFleet, ScriptedWorker, new_fleet
from .systems import Settings, System, running_system


def _failing(
    name: str, which: Callable[[ScriptedFleet], list[ScriptedWorker]], *, keeps: bool, **how: Any
) -> Case:
    return Case(name=name, play=scripted(which, Script(**how), keeps=keeps))


TWO_SECONDS = Settings(timeout_s=2)
LONE_SURROGATE = rb'{"model":"mock","max_tokens":8,"messages":[{"role":"user","content":"\ud800"}]}'
NAN = b'{"model":"mock","max_tokens":8,"temperature":NaN,"messages":[{"role":"user","content":"hi"}]}'

CASES = (
    _failing("decode dies mid-stream", all_decode, keeps=False, dies_after_tokens=3),
    _failing("one decode closes without an answer", one_decode, keeps=True, closes_unanswered=True),
    _failing("one decode closes after its head", one_decode, keeps=True, closes_after_head=True),
    _failing("one prefill closes without an answer", one_prefill, keeps=True, closes_unanswered=True),
    _failing("one of two prefill answers 500", one_prefill, keeps=True, status=500),
    _failing("one of two prefill answers 503", one_prefill, keeps=True, status=503),
    _failing("all prefill answer 500", all_prefill, keeps=False, status=500),
    _failing("prefill answers 400", all_prefill, keeps=False, status=400),
    _failing("one of two decode answers 500", one_decode, keeps=True, status=500),
    _failing("one of two decode answers 503", one_decode, keeps=True, status=503),
    _failing("decode answers 400", all_decode, keeps=False, status=400),
    Case(name="one prefill refuses connections", play=refused(one_prefill, keeps=True)),
    Case(name="one decode refuses connections", play=refused(one_decode, keeps=True)),
    Case(name="all prefill refuse connections", play=refused(all_prefill, keeps=False)),
    Case(name="all decode refuse connections", play=refused(all_decode, keeps=False)),
    Case(name="a prefill worker is restarted", play=restarted),
    Case(
        name="prefill hangs, timeout 2 s",
        play=scripted(all_prefill, Script(hangs=True), keeps=False),
        settings=TWO_SECONDS,
    ),
    Case(
        name="one of two prefill hangs, timeout 2 s",
        play=scripted(one_prefill, Script(hangs=True), keeps=True),
        settings=TWO_SECONDS,
    ),
    Case(
        name="healthy 4 s stream, timeout 2 s",
        play=scripted(all_decode, Script(tokens=40, token_interval_s=0.1), keeps=True),
        settings=TWO_SECONDS,
    ),
    Case(name="client leaves mid-stream", play=leaves_mid_stream, harmless=True),
    Case(name="client leaves during prefill", play=leaves_during_prefill, harmless=True),
    Case(name="malformed JSON", play=odd(b'{"model": '), harmless=True),
    Case(name="empty body", play=odd(b""), harmless=True),
    Case(name="JSON array", play=odd(b"[1, 2]"), harmless=True),
    Case(name="messages missing", play=odd({"model": "mock"}), harmless=True),
    Case(name="messages of the wrong type", play=odd({"model": "mock", "messages": 7}), harmless=True),
    Case(name="lone surrogate", play=odd(LONE_SURROGATE), harmless=True),
    Case(name="NaN", play=odd(NAN), harmless=True),
    Case(name="unknown model", play=odd(chat(model="no-such-model")), harmless=True),
    Case(name="unknown path", play=odd(chat(), path="/v1/no/such/path"), harmless=True),
    Case(name="wrong content type", play=odd(chat(), headers={"Content-Type": "text/plain"}), harmless=True),
    Case(
        name="2 MiB body, limit 1 MiB",
        play=odd(chat(padding="x" * 2 * 1024 * 1024)),
        settings=Settings(body_bytes=1024 * 1024),
    ),
    Case(
        harmless=True,
        name="token ids as prompt",
        play=odd({"model": "mock", "prompt": [5, 6, 7], "max_tokens": 8}, path="/v1/completions"),
    ),
    Case(name="body fidelity, as decode saw it", play=body_fidelity, harmless=True),
    Case(name="headers, as decode saw them", play=headers, harmless=True),
    Case(name="first byte on a kept-alive connection", play=kept_alive_ttft, harmless=True),
)


async def play_cases(
    cases: Sequence[Case], system: System, cores: Cores, peers: Path
) -> AsyncIterator[tuple[Case, Seen]]:
    """Play `cases` on `system`: the harmless ones on one router, each other on a fresh one."""
    for case in cases:
        if not case.harmless:
            async for played in _play_on_one([case], system, cores, peers):
                yield played
    async for played in _play_on_one([case for case in cases if case.harmless], system, cores, peers):
        yield played


async def _play_on_one(
    cases: Sequence[Case], system: System, cores: Cores, peers: Path
) -> AsyncIterator[tuple[Case, Seen]]:
    if not cases:
        return
    fleet = new_fleet()
    await fleet.start()
    try:
        async with running_system(system, fleet.ports, cores, peers, cases[0].settings) as running:
            for case in cases:
                fleet.forget()
                yield case, await case.play(Stage(fleet, running))
    except BenchError as error:
        for case in cases:
            yield case, Seen(text=str(error).replace("\n", " "))
    finally:
        await fleet.stop()

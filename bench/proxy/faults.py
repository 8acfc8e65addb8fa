"""Ways to fail, the same for every router, and what the client saw.

A case plays on a router over two prefill and two decode workers; `fault_cases.py` lists them. Where a healthy
worker remains for every request, none may be lost.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from .client import End, Reply, ask, connect
from .fidelity import changes_of_body, changes_of_headers
from .scripted import Script, ScriptedFleet, ScriptedWorker
from .systems import RunningSystem, Settings

REQUESTS = 8
NOTICE_S = 5.0
"""How long a worker has to notice that its client left."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a case showed."""

    text: str
    lost: bool = False
    """A request failed that a healthy worker could have served."""


class Stage(msgspec.Struct, frozen=True):
    """What a case plays on."""

    fleet: ScriptedFleet
    running: RunningSystem

    async def ask(self, body: dict[str, Any] | bytes | None = None, **options: Any) -> Reply:
        """Send one request to the router."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(chat() if body is None else body)
        return await ask(self.running.port, raw, **options)


Play = Callable[[Stage], Awaitable[Seen]]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the matrix."""

    name: str
    play: Play
    settings: Settings = Settings()
    harmless: bool = False
    """It leaves nothing behind: the router can serve the next case."""


def chat(**changes: Any) -> dict[str, Any]:
    """Return a plain streamed request."""
    messages = [{"role": "user", "content": "Tell me of the sea."}]
    return {"model": "mock", "stream": True, "max_tokens": 8, "messages": messages, **changes}


# --- what was seen, in words


def describe(replies: Iterable[Reply]) -> str:
    """Return how often each way to end was seen."""
    replies = list(replies)
    if len(replies) == 1:
        return _describe_one(replies[0], tokens=True)
    counts = Counter(_describe_one(reply, tokens=False) for reply in replies)
    return ", ".join(f"{count}/{len(replies)} {text}" for text, count in counts.most_common())


def _describe_one(reply: Reply, *, tokens: bool) -> str:
    if reply.served:
        return "ok"
    if reply.status is None:
        return reply.end.value
    parts = [str(reply.status)]
    if reply.status == 200:
        parts += [f"{reply.events} tokens"] if tokens else []
        parts.append("error event" if reply.error_event else "no error event")
    elif not _is_openai_error(reply):
        parts.append("not an OpenAI error")
    if reply.end is not End.WHOLE:
        parts.append(reply.end.value)
    return ", ".join(parts)


def _is_openai_error(reply: Reply) -> bool:
    try:
        tree = msgspec.json.decode(reply.body)
    except msgspec.DecodeError:
        return False
    error = tree.get("error") if isinstance(tree, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)


def _calls(fleet: ScriptedFleet) -> str:
    prefill, decode = (sum(w.seen.calls for w in each) for each in (fleet.prefill, fleet.decode))
    return f"{prefill} P + {decode} D calls"


# --- plays: workers fail


async def requests(stage: Stage, count: int = REQUESTS, *, keeps: bool = False) -> Seen:
    """Send requests one after another; with `keeps`, none may fail."""
    replies = [await stage.ask() for _ in range(count)]
    lost = keeps and not all(reply.served for reply in replies)
    timing = f"; slowest {max(reply.seconds for reply in replies):.1f} s"
    return Seen(text=f"{describe(replies)}; {_calls(stage.fleet)}{timing}", lost=lost)


def scripted(which: Callable[[ScriptedFleet], list[ScriptedWorker]], script: Script, *, keeps: bool) -> Play:
    """Return a play in which some workers follow `script`; with `keeps`, others can do their work."""

    async def play(stage: Stage) -> Seen:
        for worker in which(stage.fleet):
            worker.script = script
        return await requests(stage, REQUESTS if keeps else 1, keeps=keeps)

    return play


def refused(which: Callable[[ScriptedFleet], list[ScriptedWorker]], *, keeps: bool) -> Play:
    """Return a play in which some workers are gone."""

    async def play(stage: Stage) -> Seen:
        for worker in which(stage.fleet):
            await worker.stop()
        seen = await requests(stage, REQUESTS if keeps else 1, keeps=keeps)
        if keeps:
            return seen
        health = await stage.ask(b"", path="/health", method="GET")
        ready = await stage.ask(b"", path="/ready", method="GET")
        return Seen(text=f"{seen.text}; /health {health.status}, /ready {ready.status}")

    return play


async def restarted(stage: Stage) -> Seen:
    """A worker dies and comes back between requests."""
    first = await requests(stage, 2, keeps=True)
    worker = stage.fleet.prefill[0]
    await worker.stop()
    during = await requests(stage, 4, keeps=True)
    await worker.start()
    await asyncio.sleep(1.0)
    after = await requests(stage, 4, keeps=True)
    lost = first.lost or during.lost or after.lost
    return Seen(text=f"while it is gone: {during.text}; after: {after.text}", lost=lost)


def one_prefill(fleet: ScriptedFleet) -> list[ScriptedWorker]:
    """The first of two."""
    return fleet.prefill[:1]


def all_prefill(fleet: ScriptedFleet) -> list[ScriptedWorker]:
    """Both."""
    return fleet.prefill


def one_decode(fleet: ScriptedFleet) -> list[ScriptedWorker]:
    """The first of two."""
    return fleet.decode[:1]


def all_decode(fleet: ScriptedFleet) -> list[ScriptedWorker]:
    """Both."""
    return fleet.decode


# --- plays: clients leave


async def leaves_mid_stream(stage: Stage) -> Seen:
    """The client goes after three tokens."""
    for worker in stage.fleet.decode:
        worker.script = Script(tokens=1000)
    connection = await connect(stage.running.port)
    connection.send(msgspec.json.encode(chat()))
    await connection.receive(timeout_s=10.0, stop_after_events=3)
    return await _noticed(stage.fleet.decode, connection.leave)


async def leaves_during_prefill(stage: Stage) -> Seen:
    """The client goes before there is an answer."""
    for worker in stage.fleet.prefill:
        worker.script = Script(delay_s=30.0)
    connection = await connect(stage.running.port)
    connection.send(msgspec.json.encode(chat()))
    await asyncio.sleep(0.5)
    seen = await _noticed(stage.fleet.prefill, connection.leave)
    await asyncio.sleep(0.2)
    return Seen(text=f"prefill: {seen.text}; {_calls(stage.fleet)}")


async def _noticed(workers: list[ScriptedWorker], leave: Callable[[], None]) -> Seen:
    """Leave; return when the worker that serves saw it."""
    left_at = time.perf_counter()
    leave()
    async with asyncio.TaskGroup() as tasks:
        waits = [tasks.create_task(worker.someone_left.wait(), name="notice") for worker in workers]
        await asyncio.wait(waits, timeout=NOTICE_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    noticed = [at - left_at for worker in workers for at in worker.seen.left_at]
    if not noticed:
        return Seen(text=f"not aborted within {NOTICE_S:.0f} s", lost=True)
    return Seen(text=f"aborted after {min(noticed) * 1000:.0f} ms")


# --- plays: odd requests


def odd(body: dict[str, Any] | bytes, **options: Any) -> Play:
    """Return a play of one unusual request."""

    async def play(stage: Stage) -> Seen:
        reply = await stage.ask(body, **options)
        return Seen(text=f"{describe([reply])}; {_calls(stage.fleet)}")

    return play


async def body_fidelity(stage: Stage) -> Seen:
    """Compare what decode got with what the client sent."""
    sent = chat(
        temperature=0.7,
        top_p=0.95,
        seed=2**53 + 1,
        stream_options={"include_usage": True},
        cache_salt="pepper",
        vllm_xargs={"a": 1},
        unknown_field=[1.5],
        max_completion_tokens=8,
    )
    await stage.ask(sent)
    arrived = [body for worker in stage.fleet.decode for body in worker.seen.bodies]
    return Seen(text=changes_of_body(sent, arrived[0]) if arrived else "nothing arrived at decode")


async def headers(stage: Stage) -> Seen:
    """Compare the headers that decode got with the client's."""
    sent = {
        "Authorization": "Bearer mine",
        "X-Request-Id": "client-chosen-1",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "X-Custom": "kept?",
    }
    await stage.ask(headers=sent)
    arrived = [headers for worker in stage.fleet.decode for headers in worker.seen.headers]
    return Seen(text=changes_of_headers(sent, arrived[0]) if arrived else "nothing arrived at decode")


async def kept_alive_ttft(stage: Stage) -> Seen:
    """Small writes on one connection: Nagle's algorithm shows as 40 ms."""
    connection = await connect(stage.running.port)
    times = []
    for _ in range(20):
        connection.send(msgspec.json.encode(chat()))
        reply = await connection.receive(timeout_s=10.0)
        times.append(reply.first_byte_s or float("nan"))
    connection.leave()
    return Seen(text=f"first byte after {sorted(times)[len(times) // 2] * 1000:.1f} ms (p50 of 20)")

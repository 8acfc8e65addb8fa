"""Prefix cache hit rate by policy: conversations through each router, over workers with LRU caches of blocks.

Every conversation begins with one of few system prompts, drawn by Zipf's law, and grows by a question and an
answer a turn. Some conversations are live at a time; the next turn belongs to any of them.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from baton.proxy.routing.router import POLICIES

from .block_cache import BlockCache, prompt_text
from .client import ask
from .compiled import BenchError
from .cores import Cores
from .scripted import ScriptedFleet, ScriptedWorker, new_fleet
from .systems import Family, System, running_system
from .workloads import words

CAPACITIES = (800, 1600)
"""Blocks of 64 characters that a worker can keep."""
SYSTEM_PROMPTS = 8
SYSTEM_CHARS = 2048
USER_CHARS = 512
ASSISTANT_CHARS = 256
TURNS = 6
LIVE = 12
REQUESTS = 360
AT_ONCE = 4
SEED = 11


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy achieved at one cache size."""

    system: System
    capacity: int
    prefill: float | None
    """Share of the prompts' characters found in the caches of prefill workers; None: it did not run."""
    decode: float | None = None
    split: tuple[int, ...] = ()
    """Requests each prefill worker got."""
    failed: int = 0
    renders_per_request: float = 0.0
    detail: str = ""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a conversation."""

    session: int
    messages: list[dict[str, str]]


@dataclass
class Sessions:
    """Seeded conversations. `take` gives the next turn of a live one that waits for no answer."""

    rng: random.Random
    _prompts: list[str] = field(default_factory=list)
    _live: dict[int, list[dict[str, str]]] = field(default_factory=dict)
    _waiting: set[int] = field(default_factory=set)
    _begun: int = 0

    def __post_init__(self) -> None:
        self._prompts = [words(self.rng, SYSTEM_CHARS) for _ in range(SYSTEM_PROMPTS)]
        while len(self._live) < LIVE:
            self._begin()

    def _begin(self) -> None:
        shares = [1 / rank for rank in range(1, SYSTEM_PROMPTS + 1)]
        prompt = self.rng.choices(self._prompts, shares)[0]
        self._live[self._begun] = [{"role": "system", "content": prompt}]
        self._begun += 1

    def take(self) -> Turn:
        """Return the next turn of some conversation, which then waits until `answered`."""
        session = self.rng.choice(sorted(self._live.keys() - self._waiting))
        self._waiting.add(session)
        messages = self._live[session]
        messages.append({"role": "user", "content": words(self.rng, USER_CHARS)})
        return Turn(session=session, messages=list(messages))

    def answered(self, turn: Turn) -> None:
        """Book the answer; after its last turn a conversation is followed by a new one."""
        self._waiting.discard(turn.session)
        messages = self._live[turn.session]
        messages.append({"role": "assistant", "content": words(self.rng, ASSISTANT_CHARS)})
        if len(messages) > 2 * TURNS:
            del self._live[turn.session]
            self._begin()


def compared_policies() -> list[System]:
    """Return the policies of every router that bear on prefixes, and a few that do not."""
    return [
        System(name="vllm round_robin", family=Family.VLLM, policy="round_robin"),
        System(name="vllm power_of_two", family=Family.VLLM, policy="power_of_two"),
        System(name="vllm cache_aware", family=Family.VLLM, policy="cache_aware"),
        System(
            name="vllm consistent_hash + session",
            family=Family.VLLM,
            policy="consistent_hash",
            session_header="X-Session-ID",
        ),
        System(name="sgl round_robin", family=Family.SGLANG, policy="round_robin"),
        System(name="sgl cache_aware", family=Family.SGLANG, policy="cache_aware"),
        System(
            name="sgl manual + session",
            family=Family.SGLANG,
            policy="manual",
            session_header="X-SMG-Routing-Key",
        ),
        *(System(name=f"baton {policy}", family=Family.BATON, policy=policy) for policy in POLICIES),
    ]


async def measure_hits(system: System, capacity: int, cores: Cores, peers: Path) -> Hits:
    """Run all conversations through one router."""
    fleet = new_fleet(capacity)
    await fleet.start()
    try:
        async with running_system(system, fleet.ports, cores, peers) as running:
            _start_counting(fleet, capacity)
            failed = await _converse(running.port, system.session_header)
    except BenchError as error:
        return Hits(system=system, capacity=capacity, prefill=None, detail=str(error))
    finally:
        await fleet.stop()
    calls = tuple(worker.seen.calls for worker in fleet.prefill)
    return Hits(
        system=system,
        capacity=capacity,
        prefill=_share(fleet.prefill),
        decode=_share(fleet.decode),
        split=calls,
        failed=failed,
        renders_per_request=sum(worker.seen.renders for worker in fleet.workers) / REQUESTS,
    )


def _start_counting(fleet: ScriptedFleet, capacity: int) -> None:
    fleet.forget()
    for worker in fleet.workers:
        worker.cache = BlockCache(capacity)


async def _converse(port: int, session_header: str | None) -> int:
    """Send every turn, some at once; return how many failed."""
    sessions = Sessions(random.Random(SEED))
    numbers = iter(range(REQUESTS))
    async with asyncio.TaskGroup() as tasks:
        clients = [
            tasks.create_task(_client(port, sessions, numbers, session_header), name=f"client {number}")
            for number in range(AT_ONCE)
        ]
    return sum(client.result() for client in clients)


async def _client(port: int, sessions: Sessions, numbers: Iterator[int], session_header: str | None) -> int:
    failed = 0
    for _ in numbers:
        turn = sessions.take()
        body = {"model": "mock", "max_tokens": 8, "messages": turn.messages}
        headers = {session_header: f"session-{turn.session}"} if session_header else None
        reply = await ask(port, msgspec.json.encode(body), headers=headers)
        failed += not reply.served
        sessions.answered(turn)
    return failed


def _share(workers: list[ScriptedWorker]) -> float:
    caches = [worker.cache for worker in workers if worker.cache is not None]
    return sum(cache.hit_chars for cache in caches) / max(sum(cache.asked_chars for cache in caches), 1)


def upper_bound() -> float:
    """Return the hit rate of one cache without bounds that sees every request."""
    sessions, cache = Sessions(random.Random(SEED)), BlockCache(None)
    for _ in range(REQUESTS):
        turn = sessions.take()
        cache.take(prompt_text({"messages": turn.messages}))
        sessions.answered(turn)
    return cache.hit_chars / cache.asked_chars

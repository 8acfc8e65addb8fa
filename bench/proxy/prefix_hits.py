"""Prefix cache hit rate by policy: conversations through each router, over workers with LRU caches of blocks.

Every conversation begins with one of few system prompts, drawn by Zipf's law, and grows by a question and an
answer a turn. Some conversations are live at a time; the next turn belongs to any of them.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

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


class Sessions:
    """Conversations that follow from the seed alone, whoever answers them when.

    The turns of all of them are drawn up in one order beforehand. A turn of which the one before is not
    answered yet is passed over for the next in that order that can be asked.
    """

    def __init__(self, seed: int) -> None:
        lot = random.Random(f"{seed} system prompts")
        prompts = [words(lot, SYSTEM_CHARS) for _ in range(SYSTEM_PROMPTS)]
        self._order = _order(seed)
        self._conversations = {
            session: _conversation(seed, session, prompts) for session in sorted(set(self._order))
        }
        self._asked: Counter[int] = Counter()
        self._waiting: set[int] = set()

    def take(self) -> Turn | None:
        """Return the next turn of some conversation, which then waits until `answered`; None without one."""
        free = (place for place, session in enumerate(self._order) if session not in self._waiting)
        place = next(free, None)
        if place is None:
            return None
        session = self._order.pop(place)
        self._waiting.add(session)
        self._asked[session] += 1
        return Turn(session=session, messages=self._conversations[session][: 2 * self._asked[session]])

    def answered(self, turn: Turn) -> None:
        """Let the conversation go on."""
        self._waiting.discard(turn.session)


def _order(seed: int) -> list[int]:
    """Return whose turn it is, `REQUESTS` times: of `LIVE` conversations, of which each has `TURNS`."""
    lot, order = random.Random(f"{seed} order"), []
    live, begun = dict.fromkeys(range(LIVE), TURNS), LIVE
    for _ in range(REQUESTS):
        session = lot.choice(sorted(live))
        order.append(session)
        live[session] -= 1
        if not live[session]:
            del live[session]
            live[begun] = TURNS
            begun += 1
    return order


def _conversation(seed: int, session: int, prompts: Sequence[str]) -> list[dict[str, str]]:
    """Return a system prompt and `TURNS` questions, each but the last with its answer."""
    lot = random.Random(f"{seed} {session}")
    prompt = lot.choices(prompts, [1 / rank for rank in range(1, len(prompts) + 1)])[0]
    messages = [{"role": "system", "content": prompt}]
    for _ in range(TURNS):
        messages.append({"role": "user", "content": words(lot, USER_CHARS)})
        messages.append({"role": "assistant", "content": words(lot, ASSISTANT_CHARS)})
    return messages[:-1]


BEAR_ON_PREFIXES = ("cache_aware", "scorers", "dynamo_cost", "lmetric", "pair_cost")
BEAR_ON_NONE = ("round_robin", "least_tokens")


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
        *(
            System(name=f"baton {policy}", family=Family.BATON, policy=policy)
            for policy in (*BEAR_ON_NONE, *BEAR_ON_PREFIXES)
        ),
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
    sessions = Sessions(SEED)
    async with asyncio.TaskGroup() as tasks:
        clients = [
            tasks.create_task(_client(port, sessions, session_header), name=f"client {number}")
            for number in range(AT_ONCE)
        ]
    return sum(client.result() for client in clients)


async def _client(port: int, sessions: Sessions, session_header: str | None) -> int:
    failed = 0
    # What waits for another client's answer is asked by that one.
    while (turn := sessions.take()) is not None:
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
    sessions, cache = Sessions(SEED), BlockCache(None)
    while (turn := sessions.take()) is not None:
        cache.take(prompt_text({"messages": turn.messages}))
        sessions.answered(turn)
    return cache.hit_chars / cache.asked_chars

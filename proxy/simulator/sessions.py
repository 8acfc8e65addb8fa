"""Requests of made-up multi-turn sessions: a shared system prompt, then turns that carry all before them."""

import random
from typing import Annotated

import msgspec

from .trace import TRACE_BLOCK_TOKENS, TraceRequest

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class SessionLoad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What users do."""

    sessions: Count = 1000
    sessions_per_s: Positive = 2.0
    """Poisson arrivals."""
    turns_mean: Positive = 4.0
    """Geometric."""
    think_s: Positive = 20.0
    """Mean pause between one turn's arrival and the next one's; exponential."""
    system_prompts: Count = 20
    system_tokens: Count = 2048
    question_tokens_mean: Positive = 1500.0
    """Exponential."""
    answer_tokens_mean: Positive = 300.0


def generate_sessions(load: SessionLoad, *, seed: int) -> list[TraceRequest]:
    """Return the requests of all sessions in order of time."""
    lot = random.Random(seed)  # noqa: S311 (a lot, no secret)
    requests: list[TraceRequest] = []
    starts_at = 0.0
    for _ in range(load.sessions):
        starts_at += lot.expovariate(load.sessions_per_s)
        requests += _session(load, lot, starts_at)
    return sorted(requests, key=lambda request: request.at_s)


def _session(load: SessionLoad, lot: random.Random, at_s: float) -> list[TraceRequest]:
    system = lot.randrange(load.system_prompts)
    # Keys below zero are the shared system prompts', so that they never meet a session's own.
    shared = load.system_tokens // TRACE_BLOCK_TOKENS
    keys = [-(system * shared + block) - 1 for block in range(shared)]
    tokens = load.system_tokens
    turns: list[TraceRequest] = []
    while True:
        tokens += 1 + int(lot.expovariate(1 / load.question_tokens_mean))
        answer = 1 + int(lot.expovariate(1 / load.answer_tokens_mean))
        keys += [lot.getrandbits(62) for _ in range(tokens // TRACE_BLOCK_TOKENS - len(keys))]
        turns.append(TraceRequest(at_s=at_s, prompt_tokens=tokens, output_tokens=answer, keys=tuple(keys)))
        if lot.random() < 1 / load.turns_mean:
            return turns
        tokens += answer
        at_s += lot.expovariate(1 / load.think_s)

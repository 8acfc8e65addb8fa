"""Decode steps, seen from outside: the time between tokens while several streams decode together. No I/O."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from .answer import Answer

FEWEST_TOKENS = 6
"""Of each stream, while all decode: fewer say nothing."""


class DecodeSteps(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker's steps took while a batch did not change."""

    rows: int
    prompt_tokens: int
    """Of all rows."""
    context_tokens: float
    """Of all rows, in the mean."""
    step_s: float


def decode_steps(answers: Sequence[Answer]) -> list[DecodeSteps]:
    """Return the steps of each decode worker while all its streams of this batch decoded."""
    by_worker: defaultdict[str | None, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_worker[answer.report.decode_worker if answer.report else None].append(answer)
    seen = (_together(streams) for streams in by_worker.values())
    return [steps for steps in seen if steps is not None]


def _together(streams: Sequence[Answer]) -> DecodeSteps | None:
    begins = max(stream.token_times[0] for stream in streams)
    ends = min(stream.token_times[-1] for stream in streams)
    paces, context = [], 0.0
    for stream in streams:
        inside = [time for time in stream.token_times if begins <= time <= ends]
        if len(inside) < FEWEST_TOKENS or inside[-1] <= inside[0]:
            return None
        paces.append((inside[-1] - inside[0]) / (len(inside) - 1))
        before = sum(time < begins for time in stream.token_times)
        context += stream.prompt_tokens + before + len(inside) / 2
    return DecodeSteps(
        rows=len(streams),
        prompt_tokens=sum(stream.prompt_tokens for stream in streams),
        context_tokens=context,
        step_s=sum(paces) / len(paces),
    )


def typical(steps: Sequence[DecodeSteps]) -> list[DecodeSteps]:
    """Return one for each batch that was measured, repeatedly: the one with the median step."""
    alike: defaultdict[tuple[int, int], list[DecodeSteps]] = defaultdict(list)
    for each in steps:
        alike[each.rows, each.prompt_tokens].append(each)
    return [
        sorted(group, key=lambda each: each.step_s)[len(group) // 2] for _, group in sorted(alike.items())
    ]

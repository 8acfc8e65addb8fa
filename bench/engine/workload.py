"""What is asked of a server, and the speed it showed. Runs in the process that drives the servers.

Streams are kept as they come and parsed at the end (`recording.py`).
"""

import asyncio
import statistics
import time

import msgspec

from ...cli.sse import SseParser
from ..stream import Answer, Outcome, take_piece
from .recording import record

DECODE_PROMPT_TOKENS = 32
PREFILL_TOKENS = 1000
SERVED_NAME = "bench"


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts sent at once, or one after the other."""

    name: str
    prompts: int
    prompt_tokens: int
    output_tokens: int
    at_once: bool

    @property
    def is_prefill(self) -> bool:
        """Its speed is that of prompt tokens."""
        return self.output_tokens == 1


def decode_workload(batch: int, output_tokens: int) -> Workload:
    """`batch` streams at once."""
    return Workload(
        name=f"decode, batch {batch}",
        prompts=batch,
        prompt_tokens=DECODE_PROMPT_TOKENS,
        output_tokens=output_tokens,
        at_once=True,
    )


def prefill_workload(prompts: int) -> Workload:
    """Long prompts one after the other, one token each."""
    return Workload(
        name=f"prefill of {PREFILL_TOKENS}",
        prompts=prompts,
        prompt_tokens=PREFILL_TOKENS,
        output_tokens=1,
        at_once=False,
    )


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What one server showed on one workload."""

    rate: float
    """Median over the streams: tokens a second after the first; for prefill, prompt tokens up to it"""
    together: float
    """Output tokens a second of all streams, from the first token to the last; for prefill as `rate`"""
    first_token_s: float
    """Median time to the first token"""
    wall_s: float
    """From the first request sent to the last token"""
    token_ids: list[list[int]]
    """What each prompt was answered with"""


class RequestError(RuntimeError):
    """A server did not answer as it must."""


class HeldUpError(RuntimeError):
    """This process had no processor while the answers came: all of their tokens were read at once."""


async def run_workload(url: str, workload: Workload, prompts: list[list[int]]) -> Speed:
    """Send the prompts.

    Raises `RequestError`, `RecordingError` when a stream does not end as it must, `HeldUpError`.
    """
    if workload.at_once:
        async with asyncio.TaskGroup() as tasks:
            sent = [
                tasks.create_task(_complete(url, prompt, workload.output_tokens), name="stream")
                for prompt in prompts
            ]
        answers = [task.result() for task in sent]
    else:
        answers = [await _complete(url, prompt, workload.output_tokens) for prompt in prompts]
    return _speed(workload, answers)


async def _complete(url: str, prompt: list[int], tokens: int) -> Answer:
    body = {
        "model": SERVED_NAME,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = Answer(sent_at=time.perf_counter())
    recorded = await record(url, "/v1/completions", body)
    if recorded.status != 200:
        said = b"".join(piece.data for piece in recorded.body)[:300].decode(errors="replace")
        raise RequestError(f"{url}: HTTP {recorded.status}: {said}")
    parser = SseParser()
    for piece in recorded.body:
        take_piece(answer, parser, piece.data, piece.at)
    if answer.outcome is not Outcome.WHOLE or len(answer.token_ids) != tokens:
        raise RequestError(
            f"{url}: {answer.outcome.value} {answer.detail}, {len(answer.token_ids)} of {tokens} tokens"
        )
    return answer


def _speed(workload: Workload, answers: list[Answer]) -> Speed:
    firsts = [answer.first_at or 0.0 for answer in answers]
    lasts = [answer.last_at or 0.0 for answer in answers]
    waits = [answer.ttft_s or 0.0 for answer in answers]
    if workload.is_prefill:
        rate = together = statistics.median(workload.prompt_tokens / wait for wait in waits)
    else:
        if max(lasts) == min(firsts):
            raise HeldUpError("all tokens were read at once")
        rate = statistics.median(answer.tokens_per_s or 0.0 for answer in answers)
        together = len(answers) * (workload.output_tokens - 1) / (max(lasts) - min(firsts))
    return Speed(
        rate=rate,
        together=together,
        first_token_s=statistics.median(waits),
        wall_s=max(lasts) - min(answer.sent_at for answer in answers),
        token_ids=[answer.token_ids for answer in answers],
    )

"""One streamed request, timed and judged: did the stream end as it must?"""

import enum
import time

import aiohttp
import msgspec

from ..cli.answers import BatonReport, Chunk, Usage, parse_chunk, text_of
from ..cli.sse import DONE, SseParser

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)


class Outcome(enum.Enum):
    """How a stream ended."""

    WHOLE = "whole"
    REFUSED = "refused"  # an HTTP error before the first byte
    ERROR_EVENT = "error event"  # an SSE error event, as it must be after the first byte
    CUT = "cut"  # a stream that just ended: never allowed
    MALFORMED = "malformed"
    BROKEN = "broken connection"


class Answer(msgspec.Struct, kw_only=True):
    """What came back and when, on `time.perf_counter`."""

    outcome: Outcome = Outcome.CUT
    detail: str = ""
    sent_at: float
    first_at: float | None = None
    last_at: float | None = None
    text: str = ""
    token_ids: list[int] = msgspec.field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage | None = None
    baton: BatonReport | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token, as the client sees it."""
        return None if self.first_at is None else self.first_at - self.sent_at

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second after the first."""
        if (
            self.usage is None
            or self.first_at is None
            or self.last_at is None
            or self.last_at <= self.first_at
        ):
            return None
        return (self.usage.completion_tokens - 1) / (self.last_at - self.first_at)


async def stream(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> Answer:
    """Post a streamed completion or chat to `url` and read it to its end."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = Answer(sent_at=time.perf_counter())
    try:
        async with session.post(url, json={**body, **options}, timeout=TIMEOUT) as response:
            if response.status != 200:
                answer.outcome = Outcome.REFUSED
                answer.detail = f"HTTP {response.status}: {(await response.text())[:300]}"
                return answer
            await _read(response, answer)
            if answer.outcome is Outcome.WHOLE:
                await response.read()  # to the end of the framing, so that the connection is kept
            else:
                response.close()  # whoever broke a stream off may close the connection as well
    except (aiohttp.ClientError, TimeoutError) as error:
        answer.outcome = Outcome.BROKEN
        answer.detail = f"{type(error).__name__}: {error}"
    return answer


async def _read(response: aiohttp.ClientResponse, answer: Answer) -> None:
    parser = SseParser()
    async for piece in response.content.iter_any():
        if take_piece(answer, parser, piece, time.perf_counter()):
            return


def take_piece(answer: Answer, parser: SseParser, piece: bytes, at: float) -> bool:
    """Note what came at a time; tell whether the stream has ended, well or badly."""
    for data in parser.feed(piece):
        if data == DONE:
            _conclude(answer)
            return True
        try:
            chunk = parse_chunk(data)
        except msgspec.DecodeError as error:
            answer.outcome = Outcome.MALFORMED
            answer.detail = f"{error}: {data[:200]!r}"
            return True
        if chunk.error is not None:
            answer.outcome = Outcome.ERROR_EVENT
            answer.detail = chunk.error.message
            return True
        _take(answer, chunk, at)
    return False


def _take(answer: Answer, chunk: Chunk, at: float) -> None:
    text = text_of(chunk)
    token_ids = (chunk.choices[0].token_ids or []) if chunk.choices else []
    if text or token_ids:
        answer.last_at = at
        answer.first_at = answer.first_at or at
    answer.text += text
    answer.token_ids += token_ids
    if chunk.choices and chunk.choices[0].finish_reason:
        answer.finish_reason = chunk.choices[0].finish_reason
    answer.usage = chunk.usage or answer.usage
    answer.baton = chunk.baton or answer.baton


def _conclude(answer: Answer) -> None:
    missing = [
        name
        for name, value in (("finish_reason", answer.finish_reason), ("usage", answer.usage))
        if value is None
    ]
    answer.outcome = Outcome.MALFORMED if missing else Outcome.WHOLE
    answer.detail = f"the stream had no {' and no '.join(missing)}" if missing else ""

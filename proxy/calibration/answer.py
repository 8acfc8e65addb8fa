"""One streamed completion: when each token came, and what the workers told of its phases. No I/O."""

from collections.abc import Sequence

import msgspec

DATA, DONE = b"data:", b"[DONE]"


class AnswerError(ValueError):
    """A stream that is no whole completion; the message says what is missing or what it holds instead."""


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that the workers themselves measured; None where they do not tell."""

    queue_s: float | None = None
    prefill_s: float | None = None
    transfer_s: float | None = None
    first_step_s: float | None = None


class WorkersReport(msgspec.Struct, frozen=True, kw_only=True):
    """The `baton` object beside `usage`."""

    prefill_worker: str | None = None
    decode_worker: str | None = None
    cached_tokens: int = 0
    kv_bytes: int = 0
    phases: Phases = Phases()
    recomputed: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back, in seconds since the first request of all was sent."""

    sent_at: float
    token_times: tuple[float, ...]
    """When each token of the answer came; several may have come at once."""
    prompt_tokens: int
    output_tokens: int
    report: WorkersReport | None = None
    """None: the worker is not one of ours."""

    @property
    def ttft_s(self) -> float:
        """Time to the first token, as the client sees it."""
        return self.token_times[0] - self.sent_at

    @property
    def tpot_s(self) -> float:
        """Mean time between tokens; 0 for an answer of one."""
        gaps = len(self.token_times) - 1
        return (self.token_times[-1] - self.token_times[0]) / gaps if gaps else 0.0


class _Choice(msgspec.Struct, frozen=True, kw_only=True):
    text: str = ""
    token_ids: list[int] | None = None


class _Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int


class _Failure(msgspec.Struct, frozen=True, kw_only=True):
    message: str


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    baton: WorkersReport | None = None
    error: _Failure | None = None


_decoder = msgspec.json.Decoder(_Event)


def read_stream(sent_at: float, pieces: Sequence[tuple[float, bytes]]) -> Answer:
    """Return the answer that came as `pieces` of a body, each with its time. Raises `AnswerError`."""
    times: list[float] = []
    usage: _Usage | None = None
    report: WorkersReport | None = None
    for came_at, line in _lines(pieces):
        if not line.startswith(DATA) or line.endswith(DONE):
            continue
        event = _decode(line[len(DATA) :].strip())
        times += [came_at] * _tokens(event)
        usage, report = event.usage or usage, event.baton or report
    if usage is None or not times:
        raise AnswerError(f"the stream holds {'no tokens' if usage else 'no usage'}")
    return Answer(
        sent_at=sent_at,
        token_times=tuple(times),
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        report=report,
    )


def _lines(pieces: Sequence[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    """Return the lines of the body, each with the time at which its end came."""
    found, rest = [], b""
    for came_at, piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        found += [(came_at, line.rstrip(b"\r")) for line in whole]
    return found


def _decode(data: bytes) -> _Event:
    try:
        event = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise AnswerError(f"the stream holds no completion: {error}: {data[:100]!r}") from error
    if event.error is not None:
        raise AnswerError(event.error.message)
    return event


def _tokens(event: _Event) -> int:
    if not event.choices:
        return 0
    choice = event.choices[0]
    return len(choice.token_ids) if choice.token_ids is not None else int(bool(choice.text))

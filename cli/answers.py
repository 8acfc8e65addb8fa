"""The parts of a streamed chat answer that a terminal and the benches need. No I/O.

Unknown fields are ignored, missing ones stay None: any OpenAI server can be on the other side.
"""

import msgspec


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """New text of a chat answer."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a chunk: `delta` in chat completions, `text` in completions."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Where prompt tokens came from."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's token counts."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time before the first token went, in seconds."""

    queue_s: float | None = None
    prefill_s: float | None = None
    transfer_s: float | None = None
    first_step_s: float | None = None


class BatonReport(msgspec.Struct, frozen=True, kw_only=True):
    """The `baton` object beside `usage`: who served the request and what it took."""

    prefill_worker: str | None = None
    decode_worker: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    kv_bytes: int | None = None
    phases: Phases | None = None
    ttft_s: float | None = None
    decode_tokens_per_s: float | None = None
    recomputed: bool = False
    """KV was to be shipped but could not be used."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's error object."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream, or a whole error answer."""

    choices: list[Choice] = []
    usage: Usage | None = None
    baton: BatonReport | None = None
    error: ErrorBody | None = None


_decoder = msgspec.json.Decoder(Chunk)


def parse_chunk(data: bytes) -> Chunk:
    """Decode one event's data. Raises `msgspec.DecodeError` when it is not such an object."""
    return _decoder.decode(data)


def text_of(chunk: Chunk) -> str:
    """Return the new text of the first choice."""
    if not chunk.choices:
        return ""
    choice = chunk.choices[0]
    return (choice.delta.content if choice.delta else choice.text) or ""


def describe(report: BatonReport) -> str:
    """Say in one line who served a request and what it took."""
    workers = " -> ".join(name for name in (report.prefill_worker, report.decode_worker) if name)
    parts = [
        workers,
        _prompt(report),
        f"{_bytes(report.kv_bytes)} KV shipped" if report.kv_bytes is not None else "",
        "KV not usable, prompt recomputed" if report.recomputed else "",
        _first_token(report),
        f"{report.decode_tokens_per_s:.0f} tokens/s" if report.decode_tokens_per_s is not None else "",
    ]
    return " | ".join(part for part in parts if part)


def _prompt(report: BatonReport) -> str:
    if report.prompt_tokens is None:
        return ""
    cached = f", {report.cached_tokens} cached" if report.cached_tokens is not None else ""
    return f"{report.prompt_tokens} prompt tokens{cached}"


def _first_token(report: BatonReport) -> str:
    phases = report.phases or Phases()
    named = [
        ("queue", phases.queue_s),
        ("prefill", phases.prefill_s),
        ("transfer", phases.transfer_s),
        ("first step", phases.first_step_s),
    ]
    known = ", ".join(f"{name} {_ms(seconds)}" for name, seconds in named if seconds is not None)
    total = f"first token {_ms(report.ttft_s)}" if report.ttft_s is not None else ""
    if not known:
        return total
    return f"{total or 'first token'} ({known})"


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:.1f} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    if count < 1024**2:
        return f"{count / 1024:.1f} KiB"
    return f"{count / 1024**2:.1f} MiB"

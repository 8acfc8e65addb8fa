"""`baton chat`: a conversation with a running server, streamed, with what each answer took.

Reads questions from the terminal, or from standard input when that is no terminal (then the exit status says
whether every question was answered). `/reset` forgets the conversation, `/quit` or the end of input leaves.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import aiohttp
import msgspec
from rich.console import Console

from .answers import BatonReport, Chunk, describe, parse_chunk, text_of
from .sse import DONE, SseParser

# Never a total: a long answer is no error. A silent minute between two tokens is.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
INTERRUPTED = 130


class ChatSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to talk to, and how."""

    url: str
    model: str | None
    max_tokens: int
    temperature: float


class ChatError(Exception):
    """The server cannot be reached, refused the request or broke off; the message says which."""


class Message(msgspec.Struct, frozen=True):
    """One turn of the conversation."""

    role: str
    content: str


def run_chat(settings: ChatSettings) -> int:
    """Talk until the input ends; return the exit status."""
    console = Console(highlight=False)
    interactive = sys.stdin.isatty()
    history: list[Message] = []
    failed = False
    for question in _questions(console, interactive=interactive):
        if question == "/reset":
            history.clear()
            console.print("[dim]the conversation starts over[/dim]")
            continue
        asked = [*history, Message("user", question)]
        try:
            answer = asyncio.run(_answer(settings, asked, console))
        except ChatError as error:
            failed = True
            console.print(f"\nerror: {error}", style="red", markup=False)
        except KeyboardInterrupt:
            console.print("\n[dim]answer interrupted[/dim]")
            if not interactive:
                return INTERRUPTED
        else:
            history = [*asked, Message("assistant", answer)]
    return 1 if failed and not interactive else 0


def _questions(console: Console, *, interactive: bool) -> Iterator[str]:
    if interactive:
        console.print("[dim]/reset forgets the conversation, /quit leaves[/dim]")
    while True:
        try:
            line = console.input("[bold]> [/bold]") if interactive else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            return
        if not interactive and not line:
            return
        question = line.strip()
        if question == "/quit":
            return
        if question:
            yield question


async def _answer(settings: ChatSettings, messages: list[Message], console: Console) -> str:
    """Stream one answer to the console; return its text. Raises `ChatError`."""
    parts: list[str] = []
    report: BatonReport | None = None
    async for chunk in stream_chat(settings, messages):
        text = text_of(chunk)
        parts.append(text)
        console.print(text, end="", markup=False, soft_wrap=True)
        report = chunk.baton or report
    console.print()
    if report is not None:
        console.print(describe(report), style="dim", markup=False, soft_wrap=True)
    return "".join(parts)


async def stream_chat(settings: ChatSettings, messages: list[Message]) -> AsyncIterator[Chunk]:
    """Yield the chunks of one streamed answer. Raises `ChatError` unless the stream ended properly."""
    try:
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            body = {
                "model": settings.model or await _first_model(session, settings.url),
                "messages": [msgspec.to_builtins(message) for message in messages],
                "max_tokens": settings.max_tokens,
                "temperature": settings.temperature,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            async with session.post(f"{settings.url}/v1/chat/completions", json=body) as answer:
                if answer.status != 200:
                    raise ChatError(_refusal(answer.status, await answer.read()))
                async for chunk in _chunks(answer.content):
                    yield chunk
    except aiohttp.ClientConnectorError as error:
        raise ChatError(f"nothing listens at {settings.url}; is `baton up` running?") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ChatError(f"{settings.url} broke off: {error or 'no data for a minute'}") from error


async def _chunks(stream: aiohttp.StreamReader) -> AsyncIterator[Chunk]:
    parser = SseParser()
    async for piece in stream.iter_any():
        for data in parser.feed(piece):
            if data == DONE:
                return
            try:
                chunk = parse_chunk(data)
            except msgspec.DecodeError as error:
                raise ChatError(f"the stream holds no chat chunk: {error}") from error
            if chunk.error is not None:
                raise ChatError(chunk.error.message)
            yield chunk
    raise ChatError("the stream ended without its closing event")


async def _first_model(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(f"{url}/v1/models") as answer:
        body = await answer.read()
        if answer.status != 200:
            raise ChatError(_refusal(answer.status, body))
    try:
        models = msgspec.json.decode(body, type=_Models).data
    except msgspec.DecodeError as error:
        raise ChatError(f"{url}/v1/models: {error}") from error
    if not models:
        raise ChatError(f"{url} serves no model")
    return models[0].id


class _Model(msgspec.Struct, frozen=True):
    id: str


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


def _refusal(status: int, body: bytes) -> str:
    try:
        error = parse_chunk(body).error
    except msgspec.DecodeError:
        error = None
    said = error.message if error is not None else body.decode(errors="replace").strip()[:200]
    return f"HTTP {status}: {said}"

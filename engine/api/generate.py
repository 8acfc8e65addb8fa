"""Serve one generation request: submit it to the engine and write its answer, whole or as a stream.

1. Wait for the first tokens before answering: until then a failure still gets its own HTTP status.
2. Write what each engine step brought, one write a step.
3. A failure after the first byte becomes a last SSE event, and the stream ends without `[DONE]`.

Cancellation (the client left) passes through; `Frontend.admitted` aborts what still runs.
"""

import logging

from aiohttp import web

from .answer import DONE_EVENT, Answer
from .errors import ApiError
from .frontend import Frontend
from .generation import Generation, Plan
from .mailbox import Mailbox
from .progress import Delta

logger = logging.getLogger(__name__)

STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


async def generate(
    frontend: Frontend, http: web.Request, mailbox: Mailbox, plan: Plan, answer: Answer
) -> web.StreamResponse:
    """Run a planned request to its answer. Raises `ApiError` as long as no byte was sent."""
    generation = Generation(frontend, mailbox, plan)
    generation.submit()
    if not plan.request.stream:
        return await _whole(generation, answer)
    options = plan.request.stream_options
    with_usage = options is not None and bool(options.include_usage)
    return await _stream(http, generation, answer, with_usage=with_usage)


async def _whole(generation: Generation, answer: Answer) -> web.Response:
    results = {result.index: result for result in generation.results}
    while not generation.complete:
        for delta in await generation.next_deltas():
            results[delta.index].add(delta)
    body = answer.whole(generation.results, generation.closing())
    return web.Response(body=body, content_type="application/json")


async def _stream(
    http: web.Request, generation: Generation, answer: Answer, *, with_usage: bool
) -> web.StreamResponse:
    deltas: list[Delta] = []
    while not deltas:
        deltas = await generation.next_deltas()
    response = web.StreamResponse(headers=STREAM_HEADERS)
    await response.prepare(http)
    try:
        await _write_answer(response, generation, answer, deltas, with_usage=with_usage)
    except ConnectionResetError:
        logger.debug("the client left while a stream was written")
    except ApiError as error:
        await _write_error(response, error)
    except Exception:
        logger.exception("a stream failed")
        await _write_error(response, ApiError(500, "internal error", code="internal"))
    return response


async def _write_answer(
    response: web.StreamResponse,
    generation: Generation,
    answer: Answer,
    deltas: list[Delta],
    *,
    with_usage: bool,
) -> None:
    events = [answer.opening(generation.results)]
    while not generation.complete:
        if not generation.awaits_offer:  # else the last deltas wait: the offer rides on the last chunk
            events += [answer.chunk(delta) for delta in deltas if answer.shows(delta)]
            deltas = []
            if events:
                await response.write(b"".join(events))
                events = []
        deltas += await generation.next_deltas()
    closing = generation.closing()
    events += [answer.chunk(delta) for delta in deltas[:-1] if answer.shows(delta)]
    events += [answer.chunk(delta, closing.offer) for delta in deltas[-1:]]
    if with_usage:
        events.append(answer.usage_chunk(closing))
    events.append(DONE_EVENT)
    await response.write_eof(b"".join(events))


async def _write_error(response: web.StreamResponse, error: ApiError) -> None:
    """End a stream that already flows: the error as its last event, and no `[DONE]`."""
    try:
        await response.write_eof(b"data: " + error.body() + b"\n\n")
    except ConnectionResetError:
        logger.debug("the client left before it could be told: %s", error)

"""Requests that do not end well: clients that leave, engines that fail, aborts; and what each side learns."""

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest

from baton.engine.messages import Abort, AbortExternal, FailureKind
from support.fake_engine import Script
from support.served_worker import Served

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "hello"}]}


async def events(response: aiohttp.ClientResponse) -> list[str]:
    text = (await response.read()).decode()
    return [event.removeprefix("data: ") for event in text.split("\n\n") if event]


async def first_event(response: aiohttp.ClientResponse) -> bytes:
    return await response.content.readuntil(b"\n\n")


async def test_a_client_that_leaves_a_stream_ends_its_request(served: Served) -> None:
    served.engine.script = Script(hold_after=2)
    async with served.session.post(served.url + CHAT, json={**ASK, "stream": True}) as response:
        await first_event(response)
        response.close()

    await served.until(lambda engine: bool(engine.aborts))

    assert served.engine.aborts == [Abort(request_id=served.engine.generates[0].request_id)]


async def test_a_client_that_leaves_before_the_answer_ends_its_request(served: Served) -> None:
    served.engine.script = Script(hold_after=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await served.post(CHAT, {**ASK, "n": 2})

    await served.until(lambda engine: bool(engine.aborts))

    assert served.frontend.idle.is_set()


async def test_a_finished_request_is_not_aborted(served: Served) -> None:
    await served.post(CHAT, {**ASK, "max_tokens": 2})
    await served.get("/check")

    assert served.engine.aborts == []


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FailureKind.BAD_REQUEST, 400),
        (FailureKind.OVERLOADED, 429),
        (FailureKind.UNAVAILABLE, 503),
        (FailureKind.INTERNAL, 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_token_has_its_status(
    served: Served, kind: FailureKind, status: int, stream: bool
) -> None:
    served.engine.script = Script(fail=kind, fail_param="kv_transfer_params")

    async with served.session.post(served.url + CHAT, json={**ASK, "stream": stream}) as response:
        answer = await response.json()

    assert response.status == status
    assert answer["error"]["message"] == "told to fail"
    assert answer["error"]["param"] == "kv_transfer_params"
    assert ("Retry-After" in response.headers) == (status in {429, 503})
    assert [failed.kind for failed in served.watcher.failures] == [kind]


async def test_a_failure_in_a_stream_is_its_last_event(served: Served) -> None:
    served.engine.script = Script(fail=FailureKind.INTERNAL, fail_after=2)

    async with served.session.post(served.url + CHAT, json={**ASK, "stream": True}) as response:
        received = await events(response)

    assert response.status == 200
    assert json.loads(received[-1])["error"]["message"] == "told to fail"
    assert "[DONE]" not in received
    assert not any('"finish_reason":"' in event for event in received)


async def test_the_openai_client_raises_on_a_failure_in_a_stream(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    served.engine.script = Script(fail=FailureKind.INTERNAL, fail_after=2)
    stream = await client.chat.completions.create(model="tiny", stream=True, **ASK)  # type: ignore[call-overload]

    with pytest.raises(openai.APIError, match="told to fail"):
        [chunk async for chunk in stream]


async def test_a_failing_prompt_ends_the_others_of_its_request(served: Served) -> None:
    served.engine.script = Script(fail=FailureKind.OVERLOADED, fail_after=1)

    status, _ = await served.post("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 3})

    assert status == 429


async def test_an_engine_that_is_lost_ends_streams_with_an_error(served: Served) -> None:
    served.engine.script = Script(hold_after=2)
    async with served.session.post(served.url + CHAT, json={**ASK, "stream": True}) as response:
        await first_event(response)
        await served.lose_engine("killed by signal 9")
        received = await events(response)

    assert json.loads(received[-1])["error"]["code"] == "engine_lost"
    assert "[DONE]" not in received
    assert (await served.post(CHAT, ASK))[0] == 503
    async with served.session.get(served.url + "/health") as health:
        assert health.status == 503


async def test_abort_by_id_ends_stream_and_request(served: Served) -> None:
    served.engine.script = Script(hold_after=2)
    headers = {"X-Request-Id": "mine"}
    async with served.session.post(
        served.url + CHAT, json={**ASK, "stream": True}, headers=headers
    ) as response:
        await first_event(response)
        status, answer = await served.post("/abort/mine", {})
        received = await events(response)

    assert (status, answer) == (200, {"aborted": 1, "released": 2})
    assert json.loads(received[-1])["error"]["code"] == "request_aborted"
    assert served.engine.generates[0].external_id == "mine"


async def test_abort_of_an_unknown_id_is_no_error(served: Served) -> None:
    status, answer = await served.post("/abort/nobody", {})

    assert (status, answer) == (200, {"aborted": 0, "released": 2})
    assert any(isinstance(message, AbortExternal) for message in served.engine.received)


async def test_an_aborted_request_that_is_not_streamed_gets_an_error(served: Served) -> None:
    served.engine.script = Script(hold_after=1)
    async with asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(served.post(CHAT, ASK, **{"X-Request-Id": "mine"}), name="request")
        await served.until(lambda engine: bool(engine.generates))
        await served.post("/abort/mine", {})

    status, body = answer.result()
    assert status == 499
    assert body["error"]["code"] == "request_aborted"


async def test_the_request_id_of_the_client_is_the_id_of_the_answer(served: Served) -> None:
    _, chat = await served.post(CHAT, {**ASK, "max_tokens": 1}, **{"X-Request-Id": "a1"})
    _, completion = await served.post(
        "/v1/completions", {"prompt": "x", "max_tokens": 1}, **{"X-Request-Id": "b2"}
    )

    assert (chat["id"], completion["id"]) == ("chatcmpl-a1", "cmpl-b2")
    assert served.engine.generates[0].request_id.startswith("a1-")


async def test_a_worker_that_loads_says_so(loading: Served) -> None:
    assert await loading.get("/ready") == (503, {"ready": False, "reason": "loading"})
    status, answer = await loading.post(CHAT, ASK)
    assert status == 503
    assert answer["error"]["code"] == "loading"
    async with loading.session.get(loading.url + "/health") as health:
        assert health.status == 200


async def test_a_worker_that_drains_finishes_what_runs_and_takes_nothing_new(served: Served) -> None:
    served.says("one two", stop=True)
    async with served.session.post(served.url + CHAT, json={**ASK, "stream": True}) as response:
        await first_event(response)
        served.frontend.draining = True
        status, answer = await served.post(CHAT, ASK)
        received = await events(response)

    assert (status, answer["error"]["code"]) == (503, "draining")
    assert await served.get("/ready") == (503, {"ready": False, "reason": "draining"})
    assert received[-1] == "[DONE]"
    assert served.frontend.idle.is_set()


async def test_many_streams_at_once_keep_apart(served: Served) -> None:
    served.says("red door", stop=True, tokens_a_step=2)

    async def one(number: int) -> Any:
        body = {"prompt": "x", "max_tokens": 2 + number % 5, "ignore_eos": True, "return_token_ids": True}
        return number, await served.post("/v1/completions", body)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(number), name=f"client {number}") for number in range(40)]

    reply = served.engine.script.reply * 7
    for task in running:
        number, (status, answer) = task.result()
        assert status == 200
        assert answer["choices"][0]["token_ids"] == reply[: 2 + number % 5]

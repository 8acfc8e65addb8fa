"""A completion through two workers: what each is sent, and what the client gets, to the byte."""

import json
import re
from collections.abc import AsyncIterator

import openai
import pytest

from .fakes import (
    DONE,
    KV_FIELDS,
    Connection,
    FakeWorker,
    Request,
    chat,
    chat_chunk,
    chunked,
    fails,
    prefills_without_kv,
)
from .house import House, housed, pair

ODD_BODY = (
    r'{ "model":"demo","temperature":0.70, "max_tokens":1e1,"messages":[{"content":"\u00e9\\u00e9"}],'
    "\n" + r'"vllm_xargs":{"a":1.10,"\u0041":"é"}, "top_p" : 0.949999999, "stream":true } '
).encode()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with housed(*pair()) as house:
        yield house


async def test_a_streamed_chat_goes_through_prefill_then_decode(house: House) -> None:
    answer = await house.ask(chat())

    assert (answer.status, answer.text, answer.complete) == (200, "one two", True)
    assert answer.events[-1] == "[DONE]"
    assert answer.headers["x-baton-prefill"] == house.prefill.name
    assert answer.headers["x-baton-decode"] == house.decode.name


async def test_an_unstreamed_completion_goes_the_same_way(house: House) -> None:
    answer = await house.ask(chat(stream=False), path="/v1/completions")

    assert answer.json["choices"][0]["message"]["content"] == "one two"
    assert [r.path for r in (*house.prefill.requests, *house.decode.requests)] == ["/v1/completions"] * 2


async def test_the_prefill_leg_asks_for_one_token_and_for_the_kv(house: House) -> None:
    await house.ask(chat(max_completion_tokens=50, min_tokens=3, n=1, stream_options={}, top_p=0.95))

    sent = house.prefill.requests[0].json
    assert (sent["max_tokens"], sent["max_completion_tokens"], sent["n"], sent["stream"]) == (1, 1, 1, False)
    assert {"min_tokens", "stream_options"}.isdisjoint(sent)
    assert sent["kv_transfer_params"]["do_remote_decode"] is True
    assert sent["top_p"] == 0.95


async def test_the_decode_leg_gets_the_clients_very_bytes_and_prefills_params(house: House) -> None:
    await house.ask(ODD_BODY)

    head, _, tail = house.decode.requests[0].body.partition(b',"kv_transfer_params":')
    assert head == ODD_BODY[: ODD_BODY.rindex(b"}")]
    params, _, seed = tail.partition(b',"seed":')
    assert params == json.dumps(KV_FIELDS).encode()
    assert re.fullmatch(rb"[0-9]+}", seed)  # by which another worker would draw the same tokens


async def test_the_prefill_leg_keeps_every_value_it_does_not_replace_to_the_byte(house: House) -> None:
    await house.ask(ODD_BODY)

    sent = house.prefill.requests[0].body
    for value in (
        rb'[{"content":"\u00e9\\u00e9"}]',
        '{"a":1.10,"\\u0041":"é"}'.encode(),
        b"0.949999999",
        b"0.70",
    ):
        assert value in sent


async def test_the_clients_own_kv_params_reach_no_worker(house: House) -> None:
    await house.ask(chat(kv_transfer_params={"do_remote_prefill": True, "remote_host": "10.0.0.1"}))

    assert house.decode.requests[0].json["kv_transfer_params"] == KV_FIELDS
    assert house.prefill.requests[0].json["kv_transfer_params"]["remote_host"] is None


async def test_the_answers_bytes_are_the_workers_own_but_for_our_header_lines(house: House) -> None:
    head = b"HTTP/1.1 200 Very OK\r\nServer: odd/1\r\ncontent-TYPE: text/json\r\nContent-Length: 8\r\n\r\n"

    async def answers_oddly(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.send(head + b'{"a":.1}')

    house.decode.next.append(answers_oddly)
    answer = await house.ask(chat(), "X-Request-Id: mine")

    status_line, rest = head.split(b"\r\n", 1)
    names = (house.prefill.name, house.decode.name)
    ours = "X-Baton-Prefill: {}\r\nX-Baton-Decode: {}\r\nX-Request-Id: mine\r\n".format(*names)
    assert answer.raw == status_line + b"\r\n" + ours.encode() + rest + b'{"a":.1}'


async def test_headers_go_along_but_those_of_the_connection_and_ours(house: House) -> None:
    lines = ("Authorization: Bearer s", "traceparent: 00-a-b-01", "X-Custom: 1", "X-Request-Id: r7")
    dropped = ("X-Baton-Priority: 1", "Accept-Encoding: gzip", "Connection: x-private", "X-Private: 1")
    await house.ask(chat(), *lines, *dropped)

    for request in (house.prefill.requests[0], house.decode.requests[0]):
        seen = {name: request.headers.get(name) for name in ("authorization", "traceparent", "x-custom")}
        assert seen == {"authorization": "Bearer s", "traceparent": "00-a-b-01", "x-custom": "1"}
        assert request.headers["x-request-id"] == "r7"
        assert {"x-baton-priority", "accept-encoding", "x-private", "connection"}.isdisjoint(request.headers)


async def test_a_request_without_an_id_gets_one_that_all_three_see(house: House) -> None:
    answer = await house.ask(chat())

    ids = {r.headers["x-request-id"] for r in (house.prefill.requests[0], house.decode.requests[0])}
    assert ids == {answer.headers["x-request-id"]}


async def test_two_requests_in_flight_never_share_an_id_at_the_workers(house: House) -> None:
    async def stays(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await worker.go_on.wait()
        await connection.answer(200, b"{}")

    house.decode.next.extend([stays, stays])
    async with house.connect() as one, house.connect() as two:
        await one.post(chat(stream=False), "X-Request-Id: same")
        await two.post(chat(stream=False), "X-Request-Id: same")
        while len(house.decode.requests) < 2:
            await house.get("/health")
        house.decode.go_on.set()
        answers = [await one.answer(), await two.answer()]

    assert len({request.headers["x-request-id"] for request in house.decode.requests}) == 2
    assert [answer.headers["x-request-id"] for answer in answers] == ["same", "same"]


async def test_without_kv_in_prefills_answer_decode_computes_the_prompt_itself(house: House) -> None:
    house.prefill.next.append(prefills_without_kv)
    answer = await house.ask(ODD_BODY)

    assert answer.text == "one two"
    assert house.decode.requests[0].body.startswith(ODD_BODY[: ODD_BODY.rindex(b"}")])
    assert "x-baton-prefill" not in answer.headers
    assert house.proxy.hub.router.counts.decode_alone == 1


@pytest.mark.parametrize(
    "fields",
    [{"prompt": ["a", "b"]}, {"prompt": [[1, 2], [3]]}, {"prompt": "a", "prompt_logprobs": 1}],
)
async def test_what_one_hand_over_cannot_carry_is_served_by_decode_alone(
    house: House, fields: dict[str, object]
) -> None:
    answer = await house.ask(chat(stream=False, **fields), path="/v1/completions")

    assert answer.status == 200
    assert (len(house.prefill.requests), len(house.decode.requests)) == (0, 1)


@pytest.mark.parametrize("prompt", ["a", ["a"], [1, 2, 3], [[1, 2, 3]]])
async def test_one_prompt_is_handed_over_whatever_its_form(house: House, prompt: object) -> None:
    await house.ask(chat(stream=False, prompt=prompt), path="/v1/completions")

    assert len(house.prefill.requests) == 1


async def test_a_4xx_of_the_prefill_worker_is_final_and_comes_as_it_is(house: House) -> None:
    house.prefill.next.append(fails(400, message="temperature is negative"))
    answer = await house.ask(chat())

    assert (answer.status, answer.error["message"]) == (400, "temperature is negative")
    assert house.decode.requests == []


async def test_a_4xx_of_the_decode_worker_is_final_and_frees_the_kv(house: House) -> None:
    house.decode.next.append(fails(422, message="max_tokens is negative"))
    answer = await house.ask(chat(), "X-Request-Id: r1")
    await house.settled()

    assert (answer.status, answer.error["message"]) == (422, "max_tokens is negative")
    assert (house.prefill.aborts, len(house.decode.requests)) == (["r1"], 1)


async def test_events_cut_anywhere_arrive_whole(house: House) -> None:
    stream = b"".join(map(chunked, (chat_chunk("one"), chat_chunk(" two"), DONE))) + b"0\r\n\r\n"

    async def dribbles(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.begin_stream()
        for position in range(0, len(stream), 7):
            await connection.send(stream[position : position + 7])

    house.decode.next.append(dribbles)
    answer = await house.ask(chat())

    assert answer.raw.endswith(stream)
    assert answer.text == "one two"


async def test_an_interim_answer_of_a_worker_is_not_shown(house: House) -> None:
    async def hints(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await connection.answer(200, b'{"x": 1}')

    house.decode.next.append(hints)
    answer = await house.ask(chat(stream=False))

    assert (answer.status, answer.json) == (200, {"x": 1})


async def test_an_http_1_0_client_gets_an_unchunked_answer_ended_by_the_close(house: House) -> None:
    async def answers_like_1_0(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + DONE)
        connection.writer.close()

    house.decode.next.append(answers_like_1_0)
    async with house.connect() as client:
        await client.post(chat(), version="1.0")
        answer = await client.answer()

    assert answer.raw.endswith(b"\r\n\r\n" + DONE)


async def test_the_openai_client_streams_and_asks_whole(house: House) -> None:
    messages = [{"role": "user", "content": "hi"}]
    async with openai.AsyncOpenAI(base_url=f"{house.proxy.url}/v1", api_key="k", max_retries=0) as client:
        whole = await client.chat.completions.create(model="demo", messages=messages)  # type: ignore[arg-type]
        stream = await client.chat.completions.create(model="demo", messages=messages, stream=True)  # type: ignore[arg-type]
        parts = [chunk.choices[0].delta.content async for chunk in stream]
        models = [model.id async for model in client.models.list()]

    assert whole.choices[0].message.content == "one two"
    assert parts == ["one", " two"]
    assert models == ["demo"]

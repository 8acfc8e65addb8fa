"""Client connections: framing, limits, order, bad input, and the endpoints that the proxy answers itself."""

import asyncio

import pytest

from baton.proxy.config import Limits, Timeouts
from baton.proxy.cork import Cork
from baton.proxy.front import ClientConnection, Clients, Serving
from baton.proxy.request import ClientRequest
from baton.proxy.watch import Watch

from .fakes import FakeWorker, chat, fails, hangs
from .house import housed, pair

SMALL = Limits(body_bytes=1000, head_bytes=2000)


async def test_a_connection_carries_one_request_after_another() -> None:
    async with housed(*pair()) as house, house.connect() as client:
        for path in ("/v1/chat/completions", "/v1/completions"):
            await client.post(chat(), path=path)
            assert (await client.answer()).text == "one two"
        await client.get("/health")
        assert (await client.answer()).status == 200


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with housed(*pair()) as house, house.connect() as client:
        house.prefill.next.append(fails(418, message="first"))
        one = chat()
        post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
            len(one),
            one,
        )
        await client.send(
            post + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + post + b"GET /nope HTTP/1.1\r\n\r\n"
        )
        seen = await client.answers(4)

    assert [answer.status for answer in seen] == [418, 200, 200, 404]
    assert seen[2].text == "one two"


class _Idle:
    """Serves nothing."""

    def begin(self) -> None: ...
    def client_gone(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@pytest.mark.parametrize(
    ("head", "is_1_0"),
    [
        (b"HTTP/1.1\r\nHost: x", False),
        (b"HTTP/1.1\r\nHost: x\r\nConnection: close", False),
        (b"HTTP/1.0", True),
        (b"HTTP/1.0\r\nConnection: keep-alive", True),
        (b"HTTP/1.0\r\nProxy-Connection: keep-alive", True),
    ],
)
async def test_workers_are_asked_in_the_version_that_the_client_speaks(head: bytes, is_1_0: bool) -> None:
    loop, seen = asyncio.get_running_loop(), asyncio.Queue[ClientRequest]()

    def serve(client: ClientConnection, request: ClientRequest) -> Serving:
        seen.put_nowait(request)
        return _Idle()

    def accept() -> ClientConnection:
        return ClientConnection(serve, Clients(Cork(loop)), Watch(loop, 1.0), Limits(), Timeouts())

    server = await loop.create_server(accept, "127.0.0.1", 0)  # type: ignore[arg-type]
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"POST /v1/completions %b\r\nContent-Length: 2\r\n\r\n{}" % head)
        assert (await seen.get()).http_1_0 is is_1_0
        writer.close()


async def test_a_chunked_body_is_put_together() -> None:
    body = chat()
    async with housed(*pair()) as house, house.connect() as client:
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (body[:9], body[9:]):
            await client.send(b"%x\r\n%b\r\n" % (len(part), part))
        await client.send(b"0\r\n\r\n")
        answer = await client.answer()

        assert answer.text == "one two"
        assert house.decode.requests[0].body.startswith(body[:-1])


async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    body = chat()
    async with housed(*pair()) as house, house.connect() as client:
        head = f"POST /v1/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        await client.send(head.encode())
        told = await client.reader.readuntil(b"\r\n\r\n")
        await client.send(body)
        answer = await client.answer()

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.text == "one two"


async def test_a_declared_body_over_the_limit_is_413_before_it_is_sent() -> None:
    async with housed(*pair(), limits=SMALL) as house, house.connect() as client:
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = await client.answer()
        ended = await client.at_end()

    assert (answer.status, answer.error["code"], ended) == (413, "request_too_large", True)
    assert answer.headers["connection"] == "close"


async def test_a_client_that_sends_too_much_still_gets_its_413() -> None:
    async with housed(*pair(), limits=SMALL) as house, house.connect() as client:
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            await client.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        answer = await client.answer()

    assert answer.status == 413
    assert house.prefill.requests == []


async def test_a_413_waits_for_the_answer_before_it() -> None:
    async with housed(*pair(), limits=SMALL) as house, house.connect() as client:
        await client.post(chat())
        await client.send(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5000\r\n\r\n")
        seen = await client.answers(2)

    assert [answer.status for answer in seen] == [200, 413]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 3000, 431),
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", 400),
    ],
    ids=["long target", "endless head", "not HTTP", "two framings", "tunnel"],
)
async def test_what_is_not_a_request_is_refused_in_openais_shape(raw: bytes, status: int) -> None:
    async with housed(*pair(), limits=SMALL) as house, house.connect() as client:
        await client.send(raw)
        answer = await client.answer()
        ended = await client.at_end()

    assert (answer.status, answer.error["type"], ended) == (status, "invalid_request_error", True)


BAD_BODIES = {
    "empty": (b"", None),
    "cut": (b'{"model": "demo"', None),
    "array": (b"[1]", None),
    "NaN": (b'{"a": NaN}', None),
    "deep": (b'{"a":' + b"[" * 100_000, None),
    "key not UTF-8": (b'{"\xff": 1}', None),
    "lone surrogate": (rb'{"model": "demo", "messages": [{"content": "\ud800 "}]}', "messages"),
    "lone surrogate in a key": (rb'{"\ud800": 1}', r"\ud800"),
    "model of a wrong type": (b'{"model": 5}', "model"),
}


@pytest.mark.parametrize(("body", "param"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_body_that_is_no_json_object_is_400_and_reaches_no_worker(
    body: bytes, param: str | None
) -> None:
    async with housed(*pair()) as house:
        answer = await house.ask(body, "X-Request-Id: mine")

        assert (answer.status, answer.error["param"]) == (400, param)
        assert answer.headers["x-request-id"] == "mine"
        assert house.prefill.requests == house.decode.requests == []


async def test_an_unknown_model_is_404_and_named() -> None:
    async with housed(*pair()) as house:
        answer = await house.ask(chat(model="other"))

    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "'other'" in answer.error["message"]


async def test_a_missing_model_is_the_only_one_served() -> None:
    async with housed(*pair()) as house:
        answer = await house.ask(b'{"messages": [], "stream": true}')

    assert answer.text == "one two"


async def test_each_model_is_served_by_its_own_workers() -> None:
    workers = (*pair(), FakeWorker("decode", model="other"))
    async with housed(*workers) as house:
        answer = await house.ask(chat(model="other"))
        vague = await house.ask(b'{"messages": []}')
        models = await house.get("/v1/models")

    assert answer.headers["x-baton-decode"] == workers[2].name
    assert (vague.status, vague.error["param"]) == (400, "model")
    assert [model["id"] for model in models.json["data"]] == ["demo", "other"]


async def test_an_offer_to_switch_protocols_is_passed_over() -> None:
    async with housed(*pair()) as house, house.connect() as client:
        await client.send(b"GET /health HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")
        answer = await client.answer()
        ended = await client.at_end()

    assert (answer.status, ended) == (200, True)


async def test_a_connection_that_asks_for_its_end_gets_it() -> None:
    async with housed(*pair()) as house, house.connect() as client:
        await client.post(chat(), "Connection: close")
        answer = await client.answer()
        ended = await client.at_end()

    assert (answer.headers["connection"], ended) == ("close", True)


async def test_a_silent_connection_is_closed() -> None:
    async with housed(*pair(), timeouts=Timeouts(client_idle_s=0.1)) as house, house.connect() as client:
        assert await client.at_end()


async def test_a_client_that_stops_within_a_request_is_cut() -> None:
    async with housed(*pair(), timeouts=Timeouts(client_request_s=0.1)) as house, house.connect() as client:
        await client.send(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 10\r\n\r\n123")
        assert await client.at_end()


# --- what the proxy answers itself


async def test_health_says_that_the_process_lives_and_ready_that_it_can_serve() -> None:
    workers = pair()
    workers[1].ready = False
    async with housed(*workers, waits=False) as house:
        states = house.proxy.hub.router.fleet.workers
        await house.proxy.until(lambda: states[workers[1].name].reason == "loading weights")
        before = await house.get("/ready")
        health = await house.get("/health")
        refused = await house.ask(chat())
        workers[1].ready = True
        await house.proxy.until_ready(complete=True)
        after = await house.get("/ready")

    assert (before.status, health.status, after.status) == (503, 200, 200)
    assert before.json["workers"][1] == {
        "name": workers[1].name,
        "role": "decode",
        "kind": "baton",
        "state": "loading",
        "reason": "loading weights",
    }
    assert (refused.status, after.json["complete"]) == (503, True)


async def test_the_fleet_shows_work_in_flight_and_what_prefill_holds() -> None:
    async with housed(*pair()) as house:
        house.decode.next.append(hangs)
        async with house.connect() as client:
            await client.post(chat(max_tokens=100))
            await house.decode.hanging.wait()
            fleet = (await house.get("/fleet")).json
        await house.decode.aborted.wait()

    prefill, decode = fleet["workers"]
    assert (prefill["prefill"]["requests"], prefill["handover_tokens"]) == (0, 300)
    assert decode["decode"]["requests"] == 1
    assert decode["decode"]["tokens"] > 100
    assert fleet["pairs"] == [{"prefill": prefill["name"], "decode": decode["name"]}]
    assert fleet["handovers"] == {"granted": 1}


async def test_metrics_count_what_happened() -> None:
    async with housed(*pair()) as house:
        await house.ask(chat())
        house.prefill.next.append(fails(400))
        await house.ask(chat())
        text = (await house.get("/metrics")).body.decode()

    for line in (
        'baton_proxy_requests_total{outcome="served"} 1.0',
        'baton_proxy_requests_total{outcome="rejected"} 1.0',
        'baton_proxy_decode_legs_total{kv="handed_over"} 1.0',
        "baton_proxy_prefill_seconds_count 1.0",
        "baton_proxy_request_seconds_count 2.0",
        'baton_proxy_handovers{state="granted"} 0.0',
        f'baton_proxy_worker_state{{role="decode",state="ready",worker="{house.decode.name}"}} 1.0',
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/health", 405),
        ("GET", "/v1/models/nope", 404),
        ("GET", "/v1/models/demo", 200),
    ],
)
async def test_other_paths_answer_in_openais_shape(method: str, path: str, status: int) -> None:
    async with housed(*pair()) as house:
        answer = await house.get(path, method)

    assert answer.status == status
    assert status == 200 or answer.error["message"]


async def test_a_head_request_is_answered_without_a_body_and_the_connection_goes_on() -> None:
    async with housed(*pair()) as house, house.connect() as client:
        await client.get("/v1/models", "HEAD")
        head = await client.reader.readuntil(b"\r\n\r\n")
        await client.get("/health")
        answer = await client.answer()

    assert head.startswith(b"HTTP/1.1 200 ")
    assert answer.status == 200


async def test_a_thousand_requests_leave_nothing_held() -> None:
    async with housed(*pair(), *pair(), policy="least_tokens") as house:

        async def asks() -> None:
            async with house.connect() as client:
                for _ in range(50):
                    await client.post(chat())
                    assert (await client.answer()).text == "one two"

        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(asks())

        assert sum(len(worker.requests) for worker in house.workers) == 2000
        counts = [len(worker.requests) for worker in house.workers]
        assert max(counts) < 2 * min(counts)

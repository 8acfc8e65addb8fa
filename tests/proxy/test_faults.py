"""What fails before the first byte is made good elsewhere; what fails later is told; nothing stays held."""

import asyncio

import openai
import pytest

from baton.proxy.config import Timeouts
from baton.proxy.routing.fleet import WorkerState

from .fakes import (
    DONE,
    Behaviour,
    Connection,
    FakeWorker,
    Request,
    chat,
    chat_chunk,
    chunked,
    completion,
    fails,
    hangs,
    says,
)
from .house import housed, pair, two_pairs

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
FAILURES_BEFORE_A_BYTE = {
    "500": fails(500),
    "429": fails(429),
    "503": fails(503),
    "redirect": fails(302),
    "closed": says(b""),
    "head cut": says(b"HTTP/1.1 200 OK\r\nConte"),
    "head alone": says(HEAD),
    "not HTTP": says(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "whole answer cut": says(HEAD_WHOLE % 500 + b'{"id": '),
}


def released(*workers: FakeWorker) -> None:
    for worker in workers:
        worker.go_on.set()


@pytest.mark.parametrize("failure", FAILURES_BEFORE_A_BYTE.values(), ids=FAILURES_BEFORE_A_BYTE.keys())
@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_a_failure_before_the_first_byte_is_made_good_elsewhere(leg: str, failure: Behaviour) -> None:
    async with housed(*two_pairs()) as house:
        released(*house.workers)
        bad = house.prefill if leg == "prefill" else house.decode
        bad.usual = failure
        answers = [await house.ask(chat(), "X-Request-Id: r") for _ in range(4)]

        assert [(a.status, a.text, a.complete) for a in answers] == [(200, "one two", True)] * 4
        await house.settled()


async def test_a_failed_decode_leg_redoes_prefill_and_frees_the_first_kv() -> None:
    async with housed(*two_pairs()) as house:
        house.decode.next.append(fails(500))
        await house.ask(chat(), "X-Request-Id: r")
        await house.settled()

        first, second = (worker for worker in house.workers if worker.role == "prefill")
        sent = [r.headers["x-request-id"] for r in (*first.requests, *second.requests)]
        assert sorted(sent) == ["r", "r-retry1"]
        assert first.aborts + second.aborts == ["r"]
        assert house.proxy.hub.router.ledger.released == 1


async def test_a_dead_decode_worker_is_told_to_drop_what_it_may_still_do() -> None:
    async with housed(*two_pairs()) as house:
        house.decode.next.append(says(b""))
        await house.ask(chat(), "X-Request-Id: r")
        await house.settled()

        assert house.decode.aborts == ["r"]


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"nonsense", b'{"kv_transfer_params": {"remote_num_tokens": "x"}}']
)
async def test_a_prefill_answer_that_is_no_completion_is_a_failure_of_that_worker(body: bytes) -> None:
    async def answers_badly(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.answer(200, body)

    async with housed(*two_pairs()) as house:
        house.prefill.usual = answers_badly
        answer = await house.ask(chat())
        await house.settled()

        assert answer.text == "one two"
        assert len(house.prefill.aborts) == 1


async def test_without_a_working_prefill_worker_decode_computes_the_prompt_itself() -> None:
    async with housed(*two_pairs()) as house:
        for worker in house.workers:
            if worker.role == "prefill":
                worker.usual = fails(500)
        answer = await house.ask(chat())

        assert answer.text == "one two"
        assert b"kv_transfer_params" not in house.decode.requests[0].body


async def test_a_refusing_worker_is_out_at_once_and_taken_back_when_it_returns() -> None:
    async with housed(*two_pairs()) as house:
        worker = house.proxy.hub.router.fleet.workers[house.decode.name]
        await house.decode.kill()
        answers = [await house.ask(chat()) for _ in range(4)]
        state_when_out = worker.state
        await house.decode.start()
        await house.proxy.until_ready(complete=True)
        served = len(house.decode.requests)
        for _ in range(2):
            await house.ask(chat())

        assert [answer.text for answer in answers] == ["one two"] * 4
        assert state_when_out is WorkerState.DOWN
        assert len(house.decode.requests) == served + 1
        assert len(house.decode.peers) >= 4  # both prefill workers, before and after


async def test_a_restarted_prefill_worker_is_shaken_hands_with_again() -> None:
    async with housed(*pair()) as house:
        await house.prefill.kill()
        await house.ask(chat())
        await house.prefill.start()
        await house.proxy.until_ready(complete=True)
        answer = await house.ask(chat())

        assert answer.headers["x-baton-prefill"] == house.prefill.name
        assert len(house.decode.peers) == 2


async def test_without_a_decode_worker_the_answer_is_503_at_once() -> None:
    async with housed(*pair()) as house:
        await house.decode.kill()
        answers = [await house.ask(chat()) for _ in range(2)]
        await house.settled()

        assert [answer.status for answer in answers] == [503, 503]
        assert answers[1].error["code"] == "unavailable"
        assert answers[1].headers["retry-after"] == "1"
        assert len(house.prefill.requests) == 1


async def test_when_all_are_busy_the_last_ones_answer_is_shown_with_retry_after() -> None:
    async with housed(*pair()) as house:
        house.prefill.usual = house.decode.usual = fails(429, message="too many")
        answer = await house.ask(chat())

        assert (answer.status, answer.error["message"]) == (429, "too many")
        assert answer.headers["retry-after"] == "1"


async def test_when_all_fail_the_last_ones_answer_is_shown() -> None:
    async with housed(*pair()) as house:
        house.decode.usual = fails(500, message="out of memory")
        answer = await house.ask(chat())
        await house.settled()

        assert (answer.status, answer.error["message"]) == (500, "out of memory")


async def test_a_request_that_kills_workers_is_not_fed_to_all_of_them() -> None:
    workers = (FakeWorker("prefill"), *(FakeWorker("decode", usual=says(b"")) for _ in range(5)))
    async with housed(*workers) as house:
        answer = await house.ask(chat())
        await house.settled()

        assert answer.status == 502
        assert sum(len(worker.requests) for worker in workers[1:]) == 3


QUICK_TIMEOUTS = Timeouts(prefill_s=0.2, first_byte_s=0.2, between_chunks_s=0.2)


@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_a_worker_that_hangs_is_left_for_another_and_told_so(leg: str) -> None:
    async with housed(*two_pairs(), timeouts=QUICK_TIMEOUTS) as house:
        bad = house.prefill if leg == "prefill" else house.decode
        bad.next.append(hangs)
        answer = await house.ask(chat(), "X-Request-Id: r")
        await bad.left.wait()
        await house.settled()

        assert answer.text == "one two"
        assert bad.aborts == ["r"]


async def test_when_every_worker_hangs_the_answer_is_504() -> None:
    async with housed(*pair(), timeouts=QUICK_TIMEOUTS) as house:
        house.prefill.usual = house.decode.usual = hangs
        answer = await house.ask(chat())
        await house.settled()

        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


async def test_a_long_answer_is_no_fault_as_long_as_chunks_come() -> None:
    async def trickles(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.begin_stream()
        for _ in range(8):
            await connection.chunk(chat_chunk("x"))
            await asyncio.sleep(0.1)  # the pace of tokens is what this is about
        await connection.chunk(DONE)
        await connection.send(b"0\r\n\r\n")

    timeouts = Timeouts(prefill_s=5, first_byte_s=5, between_chunks_s=0.5)
    async with housed(*pair(), timeouts=timeouts) as house:
        house.decode.next.append(trickles)
        answer = await house.ask(chat())

        assert answer.text == "x" * 8


# --- after the first byte

FIRST = chunked(chat_chunk("one"))
SECOND = chunked(chat_chunk(" two"))
BREAKS = {
    "between chunks": FIRST,
    "within a chunk": FIRST + SECOND[:40],
    "within a chunk's size": FIRST + SECOND[:1],
    "after a chunk's data": FIRST + SECOND[:-2],
    "within a chunk's end": FIRST + SECOND[:-1],
    "before the last event": FIRST + SECOND,
}


@pytest.mark.parametrize("sent", BREAKS.values(), ids=BREAKS.keys())
async def test_a_stream_that_breaks_off_ends_with_an_error_event_in_good_framing(sent: bytes) -> None:
    async with housed(*pair()) as house:
        house.decode.next.append(says(HEAD + sent))
        async with house.connect() as client:
            await client.post(chat(), "X-Request-Id: r")
            await house.decode.said.wait()
            house.decode.go_on.set()
            answer = await client.answer()
            await client.post(chat())
            following = await client.answer()
        await house.settled()

        assert (answer.complete, following.status) == (True, 200)
        assert answer.events[-1]["error"]["code"] == "stream_broken"
        assert answer.text.startswith("one")
        assert (house.prefill.aborts, house.decode.aborts) == (["r"], ["r"])


async def test_the_openai_client_raises_on_a_stream_that_breaks_off() -> None:
    async with housed(*pair()) as house:
        released(house.decode)
        house.decode.next.append(says(HEAD + FIRST + SECOND[:40]))
        messages = [{"role": "user", "content": "hi"}]
        async with openai.AsyncOpenAI(base_url=f"{house.proxy.url}/v1", api_key="k", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="demo",
                messages=messages,  # type: ignore[arg-type]
                stream=True,
            )
            first = await anext(stream)
            with pytest.raises(openai.APIError, match="broke off"):
                await anext(stream)
        await house.settled()

        assert first.choices[0].delta.content == "one"


async def test_a_stream_that_falls_silent_ends_with_an_error_event() -> None:
    async def falls_silent(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.send(HEAD + FIRST)
        await hangs(worker, connection, request)

    async with housed(*pair(), timeouts=QUICK_TIMEOUTS) as house:
        house.decode.next.append(falls_silent)
        answer = await house.ask(chat())
        await house.decode.left.wait()
        await house.settled()

        assert answer.complete
        assert "nothing for 0.2 s" in answer.events[-1]["error"]["message"]


async def test_a_long_unstreamed_answer_that_breaks_off_is_visibly_short() -> None:
    whole = completion("x" * 600_000)
    async with housed(*pair()) as house:
        released(house.decode)
        house.decode.next.append(says(HEAD_WHOLE % len(whole) + whole[:400_000]))
        answer = await house.ask(chat(stream=False))
        await house.settled()

        assert (answer.status, answer.complete) == (200, False)


async def test_an_unchunked_stream_that_breaks_off_gets_the_event_too() -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    async with housed(*pair()) as house:
        released(house.decode)
        house.decode.next.append(says(head + chat_chunk("one")))
        answer = await house.ask(chat(), version="1.0")
        await house.settled()

        assert answer.events[-1]["error"]["code"] == "stream_broken"


# --- kept-alive connections and clients that leave


async def test_a_kept_alive_connection_that_went_stale_is_no_failure() -> None:
    async with housed(*pair()) as house:
        await house.ask(chat())

        async def closes_then_serves(worker: FakeWorker, connection: Connection, request: Request) -> None:
            connection.die()

        house.prefill.next.append(closes_then_serves)
        house.decode.next.append(closes_then_serves)
        answer = await house.ask(chat(), "X-Request-Id: r")

        assert answer.text == "one two"
        assert [r.headers["x-request-id"] for r in house.decode.requests[1:]] == ["r", "r"]
        counts = house.proxy.hub.router.counts
        assert (counts.retries, house.proxy.hub.counters.stale_resends) == ({"prefill": 0, "decode": 0}, 2)


async def test_connections_to_workers_are_kept_alive() -> None:
    async with housed(*pair()) as house:
        before = house.decode.connections
        for _ in range(5):
            await house.ask(chat())

        assert house.decode.connections == before + 1


async def test_a_client_that_leaves_during_prefill_has_prefill_aborted() -> None:
    async with housed(*pair()) as house:
        house.prefill.next.append(hangs)
        async with house.connect() as client:
            await client.post(chat(), "X-Request-Id: r")
            await house.prefill.hanging.wait()
            client.leave()
            await house.prefill.left.wait()
        await house.prefill.aborted.wait()

        assert (house.prefill.aborts, house.decode.requests) == (["r"], [])


async def test_a_client_that_leaves_before_decode_answers_has_both_aborted() -> None:
    async with housed(*pair()) as house:
        house.decode.next.append(hangs)
        async with house.connect() as client:
            await client.post(chat(), "X-Request-Id: r")
            await house.decode.hanging.wait()
            client.leave()
            await house.decode.left.wait()
        await house.prefill.aborted.wait()
        await house.decode.aborted.wait()

        assert (house.prefill.aborts, house.decode.aborts) == (["r"], ["r"])


async def test_a_client_that_leaves_mid_stream_has_both_aborted() -> None:
    async def streams_on(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.send(HEAD + FIRST)
        await hangs(worker, connection, request)

    async with housed(*pair()) as house:
        house.decode.next.append(streams_on)
        async with house.connect() as client:
            await client.post(chat(), "X-Request-Id: r")
            await client.reader.readuntil(b"one")
            client.leave()
            await house.decode.left.wait()
        await house.prefill.aborted.wait()
        await house.decode.aborted.wait()

        assert (house.prefill.aborts, house.decode.aborts) == (["r"], ["r"])


async def test_an_id_stays_taken_until_its_abort_is_confirmed() -> None:
    async with housed(*pair()) as house:
        house.prefill.next.append(hangs)
        house.prefill.confirms.clear()
        async with house.connect() as client:
            await client.post(chat(), "X-Request-Id: r")
            await house.prefill.hanging.wait()
            client.leave()
        await house.prefill.aborted.wait()
        await house.ask(chat(), "X-Request-Id: r")
        house.prefill.confirms.set()

        assert house.decode.requests[0].headers["x-request-id"] != "r"


async def test_a_worker_that_may_not_be_paired_with_is_not() -> None:
    workers = two_pairs()
    workers[1].shakes = False
    async with housed(*workers, waits=False) as house:
        await house.proxy.until(
            lambda: all(w.state is WorkerState.READY for w in house.proxy.hub.router.fleet.workers.values())
        )
        answers = [await house.ask(chat()) for _ in range(4)]
        ready = await house.get("/ready")

        alone = {
            "x-baton-prefill" in answer.headers
            for answer in answers
            if answer.headers["x-baton-decode"] == workers[1].name
        }
        assert alone == {False}
        assert all(answer.text == "one two" for answer in answers)
        assert (ready.status, len(ready.json["unshaken"])) == (503, 2)


async def test_vllm_workers_are_watched_by_health_and_need_no_handshake() -> None:
    workers = (FakeWorker("prefill", kind="vllm"), FakeWorker("decode", kind="vllm"))
    async with housed(*workers) as house:
        answer = await house.ask(chat())

        assert answer.headers["x-baton-prefill"] == workers[0].name
        assert workers[1].peers == []


async def test_a_stream_to_a_client_that_does_not_read_waits_at_the_worker() -> None:
    sent = 0

    async def pours(worker: FakeWorker, connection: Connection, request: Request) -> None:
        nonlocal sent
        await connection.begin_stream()
        piece = chunked(b"data: " + b"x" * 65000 + b"\n\n")
        for _ in range(600):
            await connection.send(piece)
            sent += len(piece)
            worker.said.set()
        await connection.send(b"0\r\n\r\n")

    async with housed(*pair()) as house:
        house.decode.next.append(pours)
        async with house.connect() as client:
            client.writer.transport.pause_reading()
            await client.post(chat())
            await house.decode.said.wait()
            before = -1
            while before != sent:  # until nothing moves any more
                before = sent
                for _ in range(20):
                    await house.get("/health")
            stalled_at = sent
            client.writer.transport.resume_reading()
            answer = await client.answer()

        assert stalled_at < 30_000_000
        assert (answer.complete, len(answer.body)) == (True, 65_008 * 600)


async def test_a_drain_lets_streams_finish_and_takes_no_new_clients() -> None:
    async with housed(*pair(), drain_grace_s=20.0) as house:
        house.decode.next.append(says(HEAD + FIRST + SECOND + chunked(DONE) + b"0\r\n\r\n"))
        async with house.connect() as client:
            await client.post(chat())
            await house.decode.said.wait()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(house.proxy.drain(20.0), name="drain")
                house.decode.go_on.set()
                answer = await client.answer()

        assert answer.text == "one two"
        with pytest.raises(ConnectionError):
            await house.ask(chat())


async def test_a_drain_whose_grace_is_over_ends_streams_with_an_error_event() -> None:
    async def streams_on(worker: FakeWorker, connection: Connection, request: Request) -> None:
        await connection.send(HEAD + FIRST)
        await hangs(worker, connection, request)

    async with housed(*pair()) as house:
        house.decode.next.append(streams_on)
        async with house.connect() as client:
            await client.post(chat(), "X-Request-Id: r")
            await house.decode.hanging.wait()
            await house.proxy.drain(0.05)
            answer = await client.answer()

        assert answer.complete
        assert "shutting down" in answer.events[-1]["error"]["message"]
        assert (house.prefill.aborts, house.decode.aborts) == (["r"], ["r"])

"""Both legs of a hand-over in vLLM's dialect, and what is reported about it."""

import json
from typing import Any

from support.fake_engine import INCARNATION, PEER, PHASES, PULL_PHASES
from support.served_worker import Served

COMPLETIONS = "/v1/completions"

PREFILL = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


async def offered(served: Served) -> Any:
    body = {"prompt": "hello", "max_tokens": 1, "stream": False, "kv_transfer_params": PREFILL}
    status, answer = await served.post(COMPLETIONS, body)
    assert status == 200
    return answer


async def test_the_prefill_leg_answers_with_an_offer(served: Served) -> None:
    answer = await offered(served)

    offer = answer["kv_transfer_params"]
    assert offer["do_remote_prefill"] is True
    assert offer["do_remote_decode"] is False
    assert offer["remote_engine_id"] == INCARNATION
    assert offer["remote_request_id"] == served.engine.generates[0].request_id
    assert offer["remote_block_ids"] == [[1, 2, 3]]
    assert offer["remote_blocks_expiry_time"] is None
    assert offer["baton_prefill"] == {
        "worker": served.frontend.name,
        "queue_s": PHASES.queue_s,
        "prefill_s": PHASES.prefill_s,
    }
    assert answer["baton"]["prefill_worker"] == served.frontend.name
    assert answer["baton"]["decode_worker"] is None


async def test_the_decode_leg_takes_the_offer_as_it_is(served: Served) -> None:
    offer = (await offered(served))["kv_transfer_params"]
    offer["baton_prefill"]["worker"] = "another:1"

    body = {"prompt": "hello", "max_tokens": 4, "kv_transfer_params": {**offer, "unknown": 1}}
    status, answer = await served.post(COMPLETIONS, body)

    assert status == 200
    pulled = served.engine.generates[1].kv_transfer
    assert pulled is not None
    assert pulled.remote_request_id == offer["remote_request_id"]
    report = answer["baton"]
    assert (report["prefill_worker"], report["decode_worker"]) == ("another:1", served.frontend.name)
    assert report["kv_bytes"] == 4096
    assert report["phases"] == {
        "queue_s": PHASES.queue_s + PULL_PHASES.queue_s,  # type: ignore[operator]
        "prefill_s": PHASES.prefill_s,
        "transfer_s": PULL_PHASES.transfer_s,
        "first_step_s": PULL_PHASES.first_step_s,
    }
    assert report["ttft_s"] > PHASES.queue_s + PHASES.prefill_s  # type: ignore[operator]
    assert report["decode_tokens_per_s"] > 0
    assert answer["kv_transfer_params"] is None


async def test_an_offer_rides_on_the_last_chunk_of_a_stream(served: Served) -> None:
    body = {"prompt": "hello", "max_tokens": 2, "stream": True, "kv_transfer_params": PREFILL}

    async with served.session.post(served.url + COMPLETIONS, json=body) as response:
        lines = (await response.text()).split("\n\n")[:-1]

    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    assert ["kv_transfer_params" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_a_request_without_handover_is_served_by_one_worker(served: Served) -> None:
    _, answer = await served.post(COMPLETIONS, {"prompt": "hello", "max_tokens": 2})

    assert answer["baton"]["prefill_worker"] == answer["baton"]["decode_worker"] == served.frontend.name
    assert answer["baton"]["kv_bytes"] == 0
    assert served.engine.generates[0].kv_transfer is None


async def test_peers_are_connected_on_demand(served: Served) -> None:
    status, answer = await served.post("/kv/peers", {"host": "127.0.0.1", "port": 5600})

    assert (status, answer) == (200, {"incarnation": PEER})
    assert (await served.get("/ready"))[1]["peers"] == [PEER]


async def test_a_peer_that_refuses_is_a_bad_gateway(served: Served) -> None:
    status, answer = await served.post("/kv/peers", {"host": "127.0.0.1", "port": 1})

    assert status == 502
    assert "connection refused" in answer["error"]["message"]


async def test_a_peer_needs_an_address(served: Served) -> None:
    status, answer = await served.post("/kv/peers", {"host": "127.0.0.1", "port": 0})

    assert (status, answer["error"]["param"]) == (400, "port")


async def test_the_limits_a_router_cut_count_on_the_prefill_leg(served: Served) -> None:
    """The rest of the body is the client's, whose own limits no longer fit."""
    body = {
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 1,
        "max_completion_tokens": 40,
        "min_tokens": 5,
        "stream": False,
        "stream_options": {"include_usage": True},
        "kv_transfer_params": PREFILL,
    }

    status, answer = await served.post("/v1/chat/completions", body)

    assert status == 200
    assert answer["usage"]["completion_tokens"] == 1
    assert answer["kv_transfer_params"]["remote_block_ids"] == [[1, 2, 3]]

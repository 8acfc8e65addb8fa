"""What routers and operators read from a worker."""

from prometheus_client.parser import text_string_to_metric_families

import baton
from support.fake_engine import BLOCKS, INCARNATION, MAX_MODEL_LEN, PEER
from support.served_worker import Served


async def test_ready_tells_what_a_router_needs(served: Served) -> None:
    status, answer = await served.get("/ready")

    assert status == 200
    assert answer == {
        "ready": True,
        "name": served.frontend.name,
        "role": "decode",
        "model": "tiny",
        "incarnation": INCARNATION,
        "kv": {"host": "127.0.0.1", "port": 5600},
        "peers": [PEER],
        "max_model_len": MAX_MODEL_LEN,
        "kv_tokens_capacity": 63 * 16,
        "block_tokens": 16,
        "captured_batch_sizes": [1, 2, 4],
        "lockstep_group": None,
        "load": {"running": 1, "waiting": 5, "kv_tokens_free": 62 * 16},
    }


async def test_check_is_the_engines_own(served: Served) -> None:
    status, answer = await served.get("/check")

    assert status == 200
    assert answer["ok"] is True
    assert answer["blocks"]["free"] == BLOCKS.free
    assert (answer["leases"], answer["pulls"], answer["requests"]) == (1, 2, 0)


async def test_version(served: Served) -> None:
    assert await served.get("/version") == (200, {"version": baton.__version__})


async def test_health_is_empty(served: Served) -> None:
    async with served.session.get(served.url + "/health") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_tokenize_and_back(served: Served) -> None:
    status, answer = await served.post("/tokenize", {"prompt": "red door", "return_token_strs": True})
    _, back = await served.post("/detokenize", {"tokens": answer["tokens"]})

    assert status == 200
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == MAX_MODEL_LEN
    assert back == {"prompt": "red door"}


async def test_tokenize_of_messages_is_what_chat_sends(served: Served) -> None:
    messages = [{"role": "user", "content": "red door"}]
    _, answer = await served.post("/tokenize", {"messages": messages})
    await served.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})

    assert served.engine.generates[0].prompt_token_ids == answer["tokens"]
    assert answer["token_strs"] is None


async def test_tokenize_needs_a_text_and_detokenize_known_ids(served: Served) -> None:
    assert (await served.post("/tokenize", {}))[1]["error"]["param"] == "prompt"
    assert (await served.post("/detokenize", {"tokens": [10**6]}))[1]["error"]["param"] == "tokens"


async def metric_values(served: Served) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    async with served.session.get(served.url + "/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_metrics_carry_the_names_that_routers_scrape(served: Served) -> None:
    await served.post("/v1/completions", {"prompt": "red door", "max_tokens": 3})

    values = await metric_values(served)

    def value(name: str, **labels: str) -> float:
        return values[name, tuple(sorted({"model_name": "tiny", **labels}.items()))]

    assert value("vllm:num_requests_running") == 1
    assert value("vllm:num_requests_waiting") == 5
    assert value("vllm:num_requests_waiting_by_reason", reason="capacity") == 2
    assert value("vllm:num_requests_waiting_by_reason", reason="deferred") == 3
    assert value("vllm:kv_cache_usage_perc") == 0.25
    assert value("vllm:prefix_cache_queries_total") == 400
    assert value("vllm:prefix_cache_hits_total") == 100
    assert value("vllm:prompt_tokens_by_source_total", source="external_kv_transfer") == 80
    assert value("vllm:generation_tokens_total") == 900
    assert value("vllm:nixl_num_failed_transfers_total") == 17
    assert value("vllm:cache_config_info", block_size="16", num_gpu_blocks="64") == 1
    assert value("vllm:time_to_first_token_seconds_count") == 1
    assert value("vllm:inter_token_latency_seconds_count") == 2
    assert value("vllm:request_success_total", finished_reason="length") == 1
    assert value("vllm:spec_decode_num_drafts_total") == 30
    assert value("vllm:spec_decode_num_draft_tokens_total") == 60
    assert value("vllm:spec_decode_num_accepted_tokens_total") == 45
    assert value("vllm:spec_decode_num_accepted_tokens_per_pos_total", position="1") == 20
    assert value("baton_draft_acceptance") == 0.75
    assert value("baton_blocks", state="free") == 60
    assert value("baton_pulls_failed_total", reason="checksum") == 9
    assert value("baton_expert_balancedness", when="measured") == 0.5
    assert value("baton_expert_balancedness", when="planned") == 0.875
    assert value("baton_http_requests_total", path="/v1/completions", status="200") == 1


async def test_a_clients_path_is_no_label(served: Served) -> None:
    await served.get("/v1/anything/at/all")

    values = await metric_values(served)

    assert not any("anything" in str(key) for key in values)

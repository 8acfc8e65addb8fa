"""Every bad request gets an OpenAI-shaped error that names its field, and the engine never hears of it."""

from typing import Any

import pytest

from baton.engine.text.chat_template import ChatTemplate
from support.served_worker import Served

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ASK = [{"role": "user", "content": "hello"}]
LONG = "door " * 400


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello", **fields}]}


BAD_FIELDS = [
    (COMPLETIONS, {"temperature": "hot"}, "temperature"),
    (COMPLETIONS, {"temperature": -0.1}, "temperature"),
    (COMPLETIONS, {"temperature": True}, "temperature"),
    (COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
    (COMPLETIONS, {"max_tokens": -5}, "max_tokens"),
    (COMPLETIONS, {"max_tokens": 1.5}, "max_tokens"),
    (COMPLETIONS, {"min_tokens": 20}, "min_tokens"),
    (COMPLETIONS, {"n": 0}, "n"),
    (COMPLETIONS, {"n": 129}, "n"),
    (COMPLETIONS, {"top_p": 0}, "top_p"),
    (COMPLETIONS, {"top_p": 1.1}, "top_p"),
    (COMPLETIONS, {"top_k": -2}, "top_k"),
    (COMPLETIONS, {"min_p": 2}, "min_p"),
    (COMPLETIONS, {"presence_penalty": 3}, "presence_penalty"),
    (COMPLETIONS, {"frequency_penalty": -3}, "frequency_penalty"),
    (COMPLETIONS, {"repetition_penalty": 0}, "repetition_penalty"),
    (COMPLETIONS, {"seed": 2**63}, "seed"),
    (COMPLETIONS, {"logit_bias": {"x": 1}}, "logit_bias"),
    (COMPLETIONS, {"logit_bias": {"384": 1}}, "logit_bias"),
    (COMPLETIONS, {"logprobs": 21}, "logprobs"),
    (COMPLETIONS, {"stop": ["a"] * 17}, "stop"),
    (COMPLETIONS, {"stop": ""}, "stop"),
    (COMPLETIONS, {"stop": [1]}, "stop"),
    (COMPLETIONS, {"stop_token_ids": [384]}, "stop_token_ids"),
    (COMPLETIONS, {"stream": "yes"}, "stream"),
    (COMPLETIONS, {"stream_options": {"include_usage": True}}, "stream_options"),
    (COMPLETIONS, {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
    (COMPLETIONS, {"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options"),
    (COMPLETIONS, {"echo": True, "logprobs": 1}, "echo"),
    (COMPLETIONS, {"best_of": 3}, "best_of"),
    (COMPLETIONS, {"suffix": "end"}, "suffix"),
    (COMPLETIONS, {"use_beam_search": True}, "use_beam_search"),
    (COMPLETIONS, {"prompt_logprobs": 1}, "prompt_logprobs"),
    (COMPLETIONS, {"response_format": {"type": "json_object"}}, "response_format"),
    (COMPLETIONS, {"prompt": ""}, "prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt"),
    (COMPLETIONS, {"prompt": ["a", ""]}, "prompt"),
    (COMPLETIONS, {"prompt": ["a", 1]}, "prompt"),
    (COMPLETIONS, {"prompt": [True]}, "prompt"),
    (COMPLETIONS, {"prompt": 7}, "prompt"),
    (COMPLETIONS, {"prompt": [384]}, "prompt"),
    (COMPLETIONS, {"prompt": [-1]}, "prompt"),
    (COMPLETIONS, {"prompt": None}, "prompt"),
    (COMPLETIONS, {"kv_transfer_params": {"do_remote_prefill": True}}, "kv_transfer_params"),
    (COMPLETIONS, {"kv_transfer_params": {"remote_port": "x"}}, "kv_transfer_params"),
    (
        COMPLETIONS,
        {"kv_transfer_params": {"do_remote_prefill": True, "do_remote_decode": True}},
        "kv_transfer_params",
    ),
    (
        COMPLETIONS,
        {"prompt": ["a", "b"], "kv_transfer_params": {"do_remote_decode": True}},
        "kv_transfer_params",
    ),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hello"}, "messages"),
    (CHAT, {"messages": [1]}, "messages"),
    (CHAT, {"messages": [{"content": "no role"}]}, "messages"),
    (CHAT, message(role=1), "messages"),
    (CHAT, message(content=7), "messages"),
    (CHAT, message(content=None), "messages"),
    (CHAT, message(content=["text"]), "messages"),
    (CHAT, message(content=[{"type": "text"}]), "messages"),
    (CHAT, message(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "messages"),
    (CHAT, {"max_tokens": 0}, "max_tokens"),
    (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
    (CHAT, {"max_completion_tokens": 3, "min_tokens": 4}, "min_tokens"),
    (CHAT, {"top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"logprobs": 3}, "logprobs"),
    (CHAT, {"tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"tool_choice": {"type": "function"}}, "tool_choice"),
    (CHAT, {"functions": []}, "functions"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format"),
    (CHAT, {"response_format": {}}, "response_format"),
    (CHAT, {"modalities": ["audio"]}, "modalities"),
    (CHAT, {"chat_template": "x"}, "chat_template"),
    (CHAT, {"continue_final_message": True}, "continue_final_message"),
]

BAD_BODIES = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b"null", None),
    (b'{"prompt": "a"} x', None),
    (b'{"messages": ' + b"[" * 20_000, None),
    (b'{"prompt": "a", "ignored": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", None),
    (b"{}", "prompt"),
    (rb'{"prompt": "a \ud800 b"}', "prompt"),
    (rb'{"prompt": ["a", "\udc00"]}', "prompt"),
    (rb'{"prompt": "a", "stop": ["\ud83d"]}', "stop"),
    (rb'{"prompt": "a", "ignored": {"deep": ["\ud83d"]}}', "ignored"),
    (b'{"prompt": "a \xff"}', "prompt"),
    (b'{"prompt": "a \xed\xa0\x80"}', "prompt"),
    (b'{"prompt": "a", "temperature": NaN}', "temperature"),
    (b'{"prompt": "a", "top_p": -Infinity}', "top_p"),
    (b'{"prompt": "a", "temperature": 1e999}', "temperature"),
]


def check_shape(answer: Any, param: str | None) -> None:
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["param"] == param
    if param is not None:
        assert f"`{param}" in answer["error"]["message"]


@pytest.mark.parametrize(("path", "fields", "param"), BAD_FIELDS, ids=str)
async def test_a_bad_field_is_named(served: Served, path: str, fields: dict[str, Any], param: str) -> None:
    good = {"messages": ASK} if path == CHAT else {"prompt": "hello"}

    status, answer = await served.post(path, {"model": "tiny", **good, **fields})

    assert status == 400
    check_shape(answer, param)
    assert answer["error"]["type"] == "invalid_request_error"
    assert served.engine.received == []


@pytest.mark.parametrize(("body", "param"), BAD_BODIES, ids=lambda value: str(value)[:40])
async def test_a_body_that_is_no_request_is_refused(served: Served, body: bytes, param: str | None) -> None:
    status, answer = await served.post(COMPLETIONS, body)

    assert status == 400
    check_shape(answer, param)
    assert served.engine.received == []


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_an_unknown_model_is_not_found(served: Served, path: str) -> None:
    status, answer = await served.post(path, {"model": "other", "messages": ASK, "prompt": "x"})

    assert status == 404
    assert answer["error"]["param"] == "model"
    assert answer["error"]["code"] == "model_not_found"
    assert served.engine.received == []


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        (COMPLETIONS, {"prompt": LONG}, "prompt"),
        (COMPLETIONS, {"prompt": [5] * 256}, "prompt"),
        (COMPLETIONS, {"prompt": ["short", LONG]}, "prompt"),
    ],
    ids=["messages", "text", "token ids", "one of two"],
)
async def test_a_prompt_that_leaves_no_room_is_refused(
    served: Served, path: str, fields: dict[str, Any], param: str
) -> None:
    status, answer = await served.post(path, fields)

    assert status == 400
    check_shape(answer, param)
    assert answer["error"]["code"] == "context_length_exceeded"
    assert served.engine.received == []


async def test_a_body_over_the_limit_is_too_large(served: Served) -> None:
    status, answer = await served.post(COMPLETIONS, {"prompt": "x" * 70_000})

    assert status == 413
    check_shape(answer, None)
    assert served.engine.received == []


async def test_a_body_over_the_limit_without_a_length_is_too_large(served: Served) -> None:
    async def chunks() -> Any:
        for _ in range(70):
            yield b"x" * 1024

    async with served.session.post(served.url + COMPLETIONS, data=chunks(), headers=JSON) as response:
        assert response.status == 413
        check_shape(await response.json(), None)


JSON = {"Content-Type": "application/json"}


async def test_another_content_type_is_refused(served: Served) -> None:
    status, answer = await served.post(COMPLETIONS, b'{"prompt": "x"}', **{"Content-Type": "text/plain"})

    assert status == 400
    assert answer["error"]["param"] == "Content-Type"


async def test_a_template_that_raises_names_the_messages(loading: Served) -> None:
    loading.frontend.prompts._template = raising_template()
    await loading.start_engine()

    status, answer = await loading.post(CHAT, {"messages": ASK})

    assert status == 400
    check_shape(answer, "messages")
    assert "roles must alternate" in answer["error"]["message"]
    assert loading.engine.received == []


def raising_template() -> Any:

    return ChatTemplate("{{ raise_exception('roles must alternate') }}", bos_token=None, eos_token=None)


async def test_an_insane_request_id_is_refused(served: Served) -> None:
    status, answer = await served.post(COMPLETIONS, {"prompt": "x"}, **{"X-Request-Id": "x" * 300})

    assert status == 400
    assert answer["error"]["param"] == "X-Request-Id"


async def test_an_unknown_path_is_not_found(served: Served) -> None:
    status, answer = await served.post("/v1/nothing", {})

    assert status == 404
    check_shape(answer, None)


async def test_a_wrong_method_is_not_allowed(served: Served) -> None:
    status, answer = await served.get(COMPLETIONS)

    assert status == 405
    check_shape(answer, None)


async def test_unknown_fields_are_ignored(served: Served) -> None:
    status, _ = await served.post(COMPLETIONS, {"prompt": "x", "max_tokens": 1, "vendor_option": {"a": 1}})

    assert status == 200


async def test_fields_that_ask_for_nothing_are_let_through(served: Served) -> None:
    nothing = {"best_of": 1, "suffix": None, "use_beam_search": False, "response_format": {"type": "text"}}

    status, _ = await served.post(COMPLETIONS, {"prompt": "x", "max_tokens": 1, **nothing})

    assert status == 200


async def test_tools_may_be_shown_to_the_model_without_being_called(served: Served) -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "look"}}], "tool_choice": "none"}

    status, _ = await served.post(CHAT, {"messages": ASK, "max_tokens": 1, **tools})

    assert status == 200

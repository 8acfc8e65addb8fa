"""The `openai` client, as it comes, gets what OpenAI promises from a whole fleet."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from baton.bench.fleet import RunningFleet
from baton.bench.leaks import find_leaks

QUESTION = "what is the code of the red door?"
CHAT = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(fleet: RunningFleet) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_chat_streamed_is_the_same_as_not(client: openai.OpenAI) -> None:
    options = {"model": "tiny", "messages": CHAT, "max_tokens": 12, "temperature": 0}

    whole = client.chat.completions.create(**options)
    chunks = list(
        client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_completions_streamed_are_the_same_as_not(client: openai.OpenAI) -> None:
    options = {"model": "tiny", "prompt": QUESTION, "max_tokens": 12, "temperature": 0}

    whole = client.completions.create(**options)
    text = "".join(chunk.choices[0].text for chunk in client.completions.create(**options, stream=True))

    assert text == whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"


def test_a_second_time_the_prompt_is_cached(client: openai.OpenAI) -> None:
    prompt = "numbers: " + " ".join(str(number) for number in range(60))
    options = {"model": "tiny", "prompt": prompt, "max_tokens": 1}

    client.completions.create(**options)
    usage = client.completions.create(**options).usage

    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) >= 64


def test_logprobs_are_of_the_tokens_that_were_chosen(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=CHAT, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 5
    for token in logprobs.content:
        assert token.logprob == max(other.logprob for other in token.top_logprobs)
        assert len(token.top_logprobs) == 3


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    options = {"model": "tiny", "prompt": QUESTION, "max_tokens": 24, "temperature": 0}
    whole = client.completions.create(**options).choices[0].text
    stop = whole[len(whole) // 2 :][:2]

    choice = client.completions.create(**options, stop=stop).choices[0]

    assert choice.text == whole[: whole.index(stop)]
    assert choice.finish_reason == "stop"


def test_a_seed_makes_sampling_repeatable(client: openai.OpenAI) -> None:
    options = {"model": "tiny", "prompt": QUESTION, "max_tokens": 16, "temperature": 1.0}

    texts = [client.completions.create(**options, seed=seed).choices[0].text for seed in (1, 1, 2)]

    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_several_choices_are_all_answered(client: openai.OpenAI) -> None:
    options = {"model": "tiny", "prompt": QUESTION, "max_tokens": 8, "temperature": 1.0}

    answer = client.completions.create(**options, seed=3, n=3)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) > 1


def post(fleet: RunningFleet, body: bytes) -> tuple[int, dict[str, Any]]:
    """Post a chat request as it stands; return the status and the body of the answer."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{fleet.url}/v1/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


BAD_REQUESTS = {
    "an unknown model": ({"model": "other", "messages": CHAT}, 404, "model"),
    "empty messages": ({"model": "tiny", "messages": []}, 400, "messages"),
    "messages of a wrong type": ({"model": "tiny", "messages": "hello"}, 400, "messages"),
    "negative max_tokens": ({"model": "tiny", "messages": CHAT, "max_tokens": -1}, 400, "max_tokens"),
    "a temperature in words": ({"model": "tiny", "messages": CHAT, "temperature": "hot"}, 400, "temperature"),
    "a prompt that is too long": (
        {"model": "tiny", "messages": [{"role": "user", "content": "word " * 2000}]},
        400,
        "messages",
    ),
    "a role the template does not take": ({"model": "tiny", "messages": [{"content": "x"}]}, 400, "messages"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_names_the_field(fleet: RunningFleet, case: str) -> None:
    body, status, field = BAD_REQUESTS[case]

    seen, answer = post(fleet, json.dumps(body).encode())

    assert seen == status
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert field in (error["param"] or "") or field in error["message"]


BAD_BODIES = {
    "malformed JSON": (b'{"model": "tiny", ', 400),
    "no object": (b"[1, 2]", 400),
    "a lone surrogate": (b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}', 400),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_body_is_refused(fleet: RunningFleet, case: str) -> None:
    body, status = BAD_BODIES[case]

    seen, answer = post(fleet, body)

    assert seen == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_nothing_is_left_behind(client: openai.OpenAI, fleet: RunningFleet) -> None:
    assert asyncio.run(find_leaks(fleet.url, fleet.workers, settle_s=10.0)) == []

"""The openai client, unmodified, gets what it asks for: both APIs, whole and streamed."""

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from support.fake_engine import PHASES
from support.served_worker import Served

MODEL = "tiny"
ASK = [{"role": "user", "content": "What is the code of the red door?"}]
ANSWER = "the code of the red door is 4827"


async def chat_stream(client: openai.AsyncOpenAI, **options: object) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, stream=True, **options)
    return [chunk async for chunk in stream]


async def completion_stream(client: openai.AsyncOpenAI, **options: object) -> list[Completion]:
    stream = await client.completions.create(model=MODEL, stream=True, **options)
    return [chunk async for chunk in stream]


def chat_text(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


async def test_chat(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says(ANSWER)

    answer = await client.chat.completions.create(model=MODEL, messages=ASK)

    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"


async def test_chat_reads_the_prompt_through_the_template(served: Served, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=1)

    prompt = served.tokenizer.decode(served.engine.generates[0].prompt_token_ids, skip_special_tokens=False)
    assert prompt == "<|begin|><|user|>What is the code of the red door?<|end|><|assistant|>"


async def test_usage_counts_prompt_cached_and_generated_tokens(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    served.says(ANSWER)

    usage = (await client.chat.completions.create(model=MODEL, messages=ASK)).usage

    generate = served.engine.generates[0]
    assert usage is not None
    assert usage.prompt_tokens == len(generate.prompt_token_ids)
    assert usage.completion_tokens == len(served.ids(ANSWER)) + 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens // 2


async def test_chat_stream_adds_up_to_the_answer(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("größe 🙂 東京")

    chunks = await chat_stream(client)

    assert chunks[0].choices[0].delta.role == "assistant"
    assert chat_text(chunks) == "größe 🙂 東京"
    assert all("\ufffd" not in (chunk.choices[0].delta.content or "") for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_stream_ends_with_usage_when_asked(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says(ANSWER)

    chunks = await chat_stream(client, stream_options={"include_usage": True})

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(served.ids(ANSWER)) + 1
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["baton"]["phases"]["prefill_s"] == PHASES.prefill_s


async def test_completion(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says(ANSWER)

    answer = await client.completions.create(model=MODEL, prompt="The code is", max_tokens=50)

    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.choices[0].text == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert served.engine.generates[0].prompt_token_ids == served.ids("The code is")


async def test_completion_stops_at_16_tokens_by_default(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("x", stop=False)

    answer = await client.completions.create(model=MODEL, prompt="x")

    assert answer.choices[0].text == "x" * 16
    assert answer.choices[0].finish_reason == "length"


async def test_completion_stream(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says(ANSWER)

    options = {"prompt": "x", "max_tokens": 50, "stream_options": {"include_usage": True}}
    chunks = await completion_stream(client, **options)

    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == ANSWER
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "prompt",
    [["red door", "blue door"], [[5, 6, 7], [8, 9]]],
    ids=["strings", "token ids"],
)
async def test_several_prompts_have_their_choices_in_order(
    served: Served, client: openai.AsyncOpenAI, prompt: list[str]
) -> None:
    served.says(ANSWER)

    answer = await client.completions.create(model=MODEL, prompt=prompt, n=2, max_tokens=50)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == [ANSWER] * 4
    assert len(served.engine.generates) == 2


async def test_token_ids_are_taken_as_they_are(served: Served, client: openai.AsyncOpenAI) -> None:
    await client.completions.create(model=MODEL, prompt=[5, 6, 7], max_tokens=1)

    assert served.engine.generates[0].prompt_token_ids == [5, 6, 7]


async def test_n_choices_of_a_stream_are_told_apart(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says(ANSWER)

    chunks = await chat_stream(client, n=3)

    assert [chat_text(chunks, index) for index in range(3)] == [ANSWER] * 3


async def test_echo_puts_the_prompt_first(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says(" is 4827")

    whole = await client.completions.create(model=MODEL, prompt="The code", echo=True, max_tokens=50)
    chunks = await completion_stream(client, prompt=served.ids("The code"), echo=True, max_tokens=50)

    assert whole.choices[0].text == "The code is 4827"
    assert "".join(chunk.choices[0].text for chunk in chunks) == "The code is 4827"


async def test_a_stop_string_cuts_the_text_and_ends_the_choice_in_the_engine(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    served.says("one two three", stop=False)

    answer = await client.chat.completions.create(model=MODEL, messages=ASK, stop=["wo t", "nothing"])

    assert answer.choices[0].message.content == "one t"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].model_extra == {"stop_reason": "wo t"}
    await served.until(lambda engine: bool(engine.aborts))


async def test_no_part_of_a_stop_string_is_streamed(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("one two three", stop=False)

    chunks = await chat_stream(client, stop="two")

    assert chat_text(chunks) == "one "
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_the_stop_string_is_shown_when_asked_for(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("one two three", stop=False)

    chunks = await chat_stream(client, stop="two", extra_body={"include_stop_str_in_output": True})

    assert chat_text(chunks) == "one two"


async def test_one_choice_stopped_by_its_string_leaves_the_others_running(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    served.says("one two", stop=False)

    answer = await client.chat.completions.create(model=MODEL, messages=ASK, n=2, stop="two")

    assert [choice.message.content for choice in answer.choices] == ["one ", "one "]
    await served.until(lambda engine: len(engine.aborts) == 2)
    assert [abort.choice for abort in served.engine.aborts] == [0, None]


async def test_chat_logprobs(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("red", stop=False)

    answer = await client.chat.completions.create(
        model=MODEL, messages=ASK, logprobs=True, top_logprobs=2, max_tokens=1
    )

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    entry = logprobs.content[0]
    chosen = served.ids("red")[0]
    assert (entry.token.encode(), entry.logprob) == (served.tokenizer.token_bytes(chosen), -1.0)
    assert entry.bytes == list(served.tokenizer.token_bytes(chosen))
    assert [top.logprob for top in entry.top_logprobs] == [-1.0, -2.0]
    assert served.engine.generates[0].sampling.logprobs == 2


async def test_streamed_chat_logprobs_come_with_their_tokens(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    served.says("red door", stop=False)

    chunks = await chat_stream(client, logprobs=True, max_tokens=3)

    entries = [c.choices[0].logprobs.content[0] for c in chunks if c.choices[0].logprobs]  # type: ignore[index]
    assert len(entries) == 3
    assert all(entry.top_logprobs == [] for entry in entries)


async def test_completion_logprobs(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("red door", stop=False)

    answer = await client.completions.create(model=MODEL, prompt="x", logprobs=2, max_tokens=3)
    chunks = await completion_stream(client, prompt="x", logprobs=2, max_tokens=3)

    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == answer.choices[0].text
    assert logprobs.token_logprobs == [-1.0] * 3
    assert [len(top) for top in logprobs.top_logprobs or []] == [2] * 3
    assert logprobs.text_offset is not None
    assert logprobs.text_offset[0] == 0
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert [each.text_offset for each in streamed if each] == [[offset] for offset in logprobs.text_offset]


async def test_sampling_fields_reach_the_engine(served: Served, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        temperature=0.5,
        top_p=0.75,
        seed=11,
        presence_penalty=0.25,
        frequency_penalty=-0.25,
        logit_bias={"7": 300},
        max_completion_tokens=9,
        extra_body={
            "top_k": 3,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "min_tokens": 2,
            "stop_token_ids": [9],
            "cache_salt": "tenant",
        },
    )

    generate = served.engine.generates[0]
    sampling = generate.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.75, 11)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -0.25)
    assert sampling.logit_bias == {7: 100.0}
    assert (sampling.max_tokens, sampling.min_tokens) == (9, 2)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (3, 0.125, 1.5)
    assert sampling.stop_token_ids == (9, *served.tokenizer.eos_token_ids)
    assert generate.cache_salt == "tenant"


async def test_top_k_minus_one_and_zero_mean_no_limit(served: Served, client: openai.AsyncOpenAI) -> None:
    for top_k in (-1, 0):
        await client.completions.create(model=MODEL, prompt="x", max_tokens=1, extra_body={"top_k": top_k})

    assert [generate.sampling.top_k for generate in served.engine.generates] == [None, None]


async def test_ignore_eos_leaves_no_stop_ids(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("red")

    answer = await client.completions.create(
        model=MODEL, prompt="x", max_tokens=10, extra_body={"ignore_eos": True}
    )

    assert answer.choices[0].finish_reason == "length"
    assert served.engine.generates[0].sampling.stop_token_ids == ()


async def test_a_stop_id_of_the_request_is_named_as_the_reason(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    served.says("red door", stop=False)
    stop_id = served.ids("red door")[-1]

    answer = await client.completions.create(
        model=MODEL, prompt="x", max_tokens=20, extra_body={"stop_token_ids": [stop_id]}
    )

    assert answer.choices[0].model_extra == {"stop_reason": stop_id}
    assert answer.choices[0].text == "red door".removesuffix(served.tokenizer.token_bytes(stop_id).decode())


async def test_return_token_ids(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("red", stop=False)
    asked = {"max_tokens": 2, "extra_body": {"return_token_ids": True}}

    whole = await client.completions.create(model=MODEL, prompt=[5, 6], **asked)
    chunks = await completion_stream(client, prompt=[5, 6], **asked)

    extra = whole.choices[0].model_extra or {}
    assert (
        extra["token_ids"] == served.engine.script.reply[:1] * 2
        or extra["token_ids"] == ((served.engine.script.reply * 2)[:2])
    )
    assert extra["prompt_token_ids"] == [5, 6]
    streamed = [(chunk.choices[0].model_extra or {}).get("token_ids") or [] for chunk in chunks]
    assert [token for ids in streamed for token in ids] == extra["token_ids"]


async def test_chat_may_use_the_whole_context(served: Served, client: openai.AsyncOpenAI) -> None:
    served.says("x", stop=False, hold_after=1)
    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(model=MODEL, messages=ASK, timeout=0.5)

    generate = served.engine.generates[0]
    assert generate.sampling.max_tokens + len(generate.prompt_token_ids) == 256


async def test_models(served: Served, client: openai.AsyncOpenAI) -> None:
    models = await client.models.list()

    assert [model.id for model in models.data] == [MODEL]
    assert models.data[0].model_extra is not None
    assert models.data[0].model_extra["max_model_len"] == 256


async def test_a_long_prompt_is_tokenised_like_a_short_one(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    text = "the quick brown fox jumps over the lazy dog while seven wizards quietly watch " * 60

    async with served.session.post(served.url + "/tokenize", json={"prompt": text}) as response:
        answer = await response.json()

    assert answer["tokens"] == served.tokenizer.encode(text, add_special_tokens=True)

"""From `prompt` or `messages` to token ids. Long texts are tokenised in a thread, off the event loop."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from ..text.chat_template import ChatTemplate, ChatTemplateError
from ..text.tokenizer import Tokenizer
from .errors import ApiError, bad_field
from .sampling import ModelLimits
from .schema import ChatRequest, CompletionRequest

INLINE_TEXT_CHARS = 4096
"""Longer texts are encoded in a thread: 8 KiB take 3 to 4 ms, a thread hop 0.1 ms."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt as the model reads it."""

    token_ids: list[int]
    text: str | None
    """None where the client sent token ids."""


class PromptReader:
    """Turns request fields into prompts that are known to fit the model."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, executor: ThreadPoolExecutor
    ) -> None:
        self.tokenizer = tokenizer
        self._template = template
        self._executor = executor

    async def of_completion(self, request: CompletionRequest, limits: ModelLimits) -> list[Prompt]:
        """Return the prompts of a completion request, one or several. Raises `ApiError` naming `prompt`."""
        prompts = [
            Prompt(
                token_ids=item
                if isinstance(item, list)
                else await self.encode(item, add_special_tokens=request.add_special_tokens is not False),
                text=item if isinstance(item, str) else None,
            )
            for item in _prompt_items(request.prompt)
        ]
        for prompt in prompts:
            check_fits("prompt", prompt.token_ids, limits)
        return prompts

    async def of_chat(self, request: ChatRequest, limits: ModelLimits) -> Prompt:
        """Return the prompt of a conversation. Raises `ApiError` naming `messages`."""
        text = self.render(
            request.messages,
            tools=request.tools,
            add_generation_prompt=request.add_generation_prompt is not False,
            extra=request.chat_template_kwargs,
        )
        token_ids = await self.encode(text, add_special_tokens=bool(request.add_special_tokens))
        check_fits("messages", token_ids, limits)
        return Prompt(token_ids=token_ids, text=text)

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        extra: dict[str, Any] | None,
    ) -> str:
        """Put messages through the chat template. Raises `ApiError` naming `messages`."""
        if self._template is None:
            raise bad_field("messages", "this model has no chat template; use /v1/completions")
        check_messages(messages)
        try:
            return self._template.render(
                [_with_parsed_arguments(message) for message in messages],
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                extra=extra,
            )
        except ChatTemplateError as error:
            raise bad_field("messages", f"the chat template refused them: {error}") from error

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text` without holding up the event loop."""
        if len(text) <= INLINE_TEXT_CHARS:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, lambda: self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        )


def check_fits(param: str, token_ids: list[int], limits: ModelLimits) -> None:
    """Raise `ApiError` unless the model can read these ids and add at least one."""
    if not token_ids:
        raise bad_field(param, "the prompt may not be empty")
    if len(token_ids) >= limits.max_model_len:
        raise ApiError(
            400,
            f"`{param}`: this model's maximum context length is {limits.max_model_len} tokens, "
            f"and the prompt has {len(token_ids)}, which leaves no room for an answer",
            param=param,
            code="context_length_exceeded",
        )
    if min(token_ids) < 0 or max(token_ids) >= limits.vocab_size:
        raise bad_field(param, f"a token id is outside the vocabulary of {limits.vocab_size}")


def _prompt_items(prompt: str | list[Any]) -> list[str | list[int]]:
    """Tell the four forms of `prompt` apart."""
    if isinstance(prompt, str):
        items: list[Any] = [prompt]
    elif _all_of(int, prompt):
        items = [prompt]
    elif _all_of(str, prompt) or (_all_of(list, prompt) and all(_all_of(int, ids) for ids in prompt)):
        items = prompt
    else:
        raise bad_field(
            "prompt", "expected a string, a list of strings, token ids, or a list of token id lists"
        )
    if not items or not all(items):
        raise bad_field("prompt", "the prompt may not be empty")
    return items


def _all_of(kind: type, values: list[Any]) -> bool:
    return not values or set(map(type, values)) == {kind}


def check_messages(messages: list[dict[str, Any]]) -> None:
    """Raise `ApiError` naming `messages` unless each has a role and text."""
    if not messages:
        raise bad_field("messages", "expected at least one message")
    for place, message in enumerate(messages):
        path = f"messages[{place}]"
        if not isinstance(message.get("role"), str):
            raise _bad_message(f"{path}.role", "expected a string")
        content = message.get("content")
        if isinstance(content, list):
            for number, part in enumerate(content):
                _check_part(f"{path}.content[{number}]", part)
        elif content is None:
            if not message.get("tool_calls"):
                raise _bad_message(f"{path}.content", "this field is required")
        elif not isinstance(content, str):
            raise _bad_message(f"{path}.content", "expected a string or a list of text parts")


def _check_part(path: str, part: object) -> None:
    if not isinstance(part, dict):
        raise _bad_message(path, "expected an object with `type` and `text`")
    if part.get("type") != "text":
        raise _bad_message(f"{path}.type", f"only 'text' parts are supported, got {part.get('type')!r}")
    if not isinstance(part.get("text"), str):
        raise _bad_message(f"{path}.text", "expected a string")


def _bad_message(path: str, message: str) -> ApiError:
    return ApiError(400, f"`{path}`: {message}", param="messages")


def _with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """Templates read the arguments of an earlier tool call as an object; clients send them as JSON text."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_parsed_call(call) for call in calls]}


def _parsed_call(call: Any) -> Any:
    try:
        arguments = json.loads(call["function"]["arguments"])
    except (TypeError, KeyError, ValueError):
        return call
    return {**call, "function": {**call["function"], "arguments": arguments}}

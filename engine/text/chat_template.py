"""Renders a conversation to the prompt text a model was trained on, in a sandboxed jinja2.

Conventions of Hugging Face: the template sees `messages`, `tools`, `add_generation_prompt`, `bos_token` and
`eos_token`, may call `raise_exception` and `strftime_now`, and may use loop controls and `{% generation %}`.
The template comes with the checkpoint, the messages from anyone: the sandbox is for the latter's sake.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, Any]


class ChatTemplateError(ValueError):
    """The template refused the conversation, or failed on it."""


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, *, bos_token: str | None, eos_token: str | None) -> None:
        """Compile `source`. Raises `ChatTemplateError` when it is no valid template."""
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template does not compile: {error}") from error
        self._constants = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self.reads_content_parts = self._probe_content_parts()

    def render(
        self,
        messages: list[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        extra: dict[str, Any] | None = None,
    ) -> str:
        """Return the prompt's text. Raises `ChatTemplateError` with the template's own words if it raises.

        messages  role and content; content is a string or a list of text parts
        extra     further variables of this model's template; they cannot replace the standard ones
        """
        variables = {
            **(extra or {}),
            **self._constants,
            "messages": [self._shaped(message) for message in messages],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(variables)
        except (jinja2.TemplateError, RecursionError, *_OPERAND_ERRORS) as error:
            raise ChatTemplateError(str(error) or type(error).__name__) from error

    def _shaped(self, message: Message) -> Message:
        """Join text parts to one string, unless the template reads parts itself."""
        content = message.get("content")
        if self.reads_content_parts or not isinstance(content, list):
            return message
        return {**message, "content": "\n".join(part["text"] for part in content)}

    def _probe_content_parts(self) -> bool:
        """Whether the template reads a list of parts: it then shows the text, and not the list's repr."""
        probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
        self.reads_content_parts = True
        try:
            shown = self.render(probe)
        except ChatTemplateError:
            return False
        return "probe" in shown and "'type'" not in shown and '"type"' not in shown


# What expressions of a template raise on operands they were not made for: a wrong field, index or type.
_OPERAND_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for training; here it is no more
    than its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance attribute

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the body of the block alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    functions: dict[str, Callable[..., Any]] = {"raise_exception": _raise, "strftime_now": _strftime_now}
    environment.globals.update(functions)
    return environment


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 - the name templates may pass it by
    return datetime.now().astimezone().strftime(format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja2's own filter, escape no HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )

"""Templates render as transformers renders them, inside a sandbox, and fail with their own words."""

import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from baton.engine.text.chat_template import ChatTemplate, ChatTemplateError
from support.tokenizers import CHAT_TEMPLATE

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is <b>é</b>?"},
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]

WITH_TOOLS = (
    "{%- if tools %}{% for tool in tools %}{{ tool | tojson(indent=2) }}\n{% endfor %}{% endif %}"
    "{% for message in messages %}{% if loop.index > 9 %}{% break %}{% endif %}"
    "{% generation %}[{{ message.role }}] {{ message.content }}{% endgeneration %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def make(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("source", [CHAT_TEMPLATE, WITH_TOOLS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_the_text_is_what_transformers_renders(source: str, add_generation_prompt: bool) -> None:
    rendered, _ = render_jinja_template(
        conversations=[MESSAGES],
        tools=TOOLS,
        chat_template=source,
        add_generation_prompt=add_generation_prompt,
        bos_token="<s>",
        eos_token="</s>",
    )

    ours = make(source).render(MESSAGES, tools=TOOLS, add_generation_prompt=add_generation_prompt)

    assert [ours] == rendered


def test_text_parts_are_joined_for_a_template_that_reads_strings() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]

    text = make(CHAT_TEMPLATE).render([{"role": "user", "content": parts}], add_generation_prompt=False)

    assert text == "<s><|user|>one\ntwo</s>"


def test_text_parts_are_left_to_a_template_that_reads_them() -> None:
    source = "{% for m in messages %}{% for part in m.content %}({{ part.text }}){% endfor %}{% endfor %}"
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]

    assert make(source).render([{"role": "user", "content": parts}]) == "(one)(two)"


def test_extra_variables_reach_the_template_but_replace_nothing() -> None:
    template = make("{{ mood }}{{ bos_token }}")

    assert template.render(MESSAGES, extra={"mood": "calm", "bos_token": "forged"}) == "calm<s>"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content }}", "messages|list|element|undefined|index"),
        ("{{ 1 + messages[0].content }}", "unsupported operand"),
        ("{{ messages.append(1) }}", "immutable|unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_fails_says_why(source: str, words: str) -> None:
    with pytest.raises(ChatTemplateError, match=words):
        make(source).render(MESSAGES)


def test_a_template_that_does_not_compile_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="does not compile"):
        make("{% for %}")


def test_nesting_without_end_is_an_error_of_the_request() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]

    with pytest.raises(ChatTemplateError, match="recursion"):
        make("{{ messages | tojson }}").render([{"role": "user", "content": "", "deep": deep}])


def test_json_in_a_template_keeps_its_characters() -> None:
    text = make("{{ messages[0] | tojson }}").render([{"role": "user", "content": "<é>"}])

    assert json.loads(text) == {"role": "user", "content": "<é>"}
    assert "<é>" in text

"""A stream that another worker goes on with says what was not said yet, and only if it is the same answer."""

import json
from typing import Any

import pytest

from baton.proxy.continuation import Continuation, DivergedError
from baton.proxy.told import Told, read_told, unchunked

from .fakes import DONE, chat_chunk, chunked, event

USAGE = {"prompt_tokens": 1, "completion_tokens": 4}


def chunk(name: str = "b", created: int = 2, finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event(id=name, created=created, model="m", choices=[choice])


def told(*events: bytes) -> Told:
    found = read_told(b"".join(events))
    assert found is not None
    return found


def said(events: bytes) -> list[Any]:
    texts = [part.removeprefix("data: ") for part in events.decode().split("\n\n") if part]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def text(events: bytes) -> str:
    return "".join(
        e["choices"][0]["delta"].get("content", "") for e in said(events) if e != "[DONE]" and e["choices"]
    )


SENT = (chunk("a", 1, role="assistant", content=""), chunk("a", 1, content="Hello wor"))
REPLAY = (
    chunk(role="assistant", content=""),
    chunk(content="Hel"),
    chunk(content="lo world"),
    chunk(content=", you", finish="stop"),
    event(id="b", created=2, choices=[], usage=USAGE),
    DONE,
)


@pytest.mark.parametrize("cut", range(1, 200, 17))
def test_the_rest_is_told_under_the_name_that_was_begun(cut: int) -> None:
    stream, going_on = b"".join(REPLAY), Continuation(told(*SENT))
    events = going_on.feed(stream[:cut]) + going_on.feed(stream[cut:])

    assert text(events) == "ld, you"
    assert {(e["id"], e["created"]) for e in said(events)[:-1]} == {("a", 1)}
    assert [e["choices"][0]["finish_reason"] for e in said(events)[:-2]] == [None, "stop"]
    assert said(events)[-2]["usage"] == USAGE
    assert said(events)[-1] == "[DONE]"
    assert going_on.done


def test_what_was_told_is_not_told_again_even_to_its_last_event() -> None:
    everything = (*SENT, chunk("a", 1, content="ld, you", finish="stop"))
    events = Continuation(told(*everything)).feed(b"".join(REPLAY))

    assert [e if e == "[DONE]" else e["usage"] for e in said(events)] == [USAGE, "[DONE]"]


def test_a_stream_can_be_continued_twice() -> None:
    first = Continuation(told(*SENT))
    first.feed(b"".join(REPLAY[:3]))
    events = Continuation(first.told).feed(b"".join(REPLAY))

    assert text(events) == ", you"


def test_a_completions_text_is_continued() -> None:
    def piece(text: str) -> bytes:
        return event(id="x", created=1, choices=[{"index": 0, "text": text, "finish_reason": None}])

    events = Continuation(told(piece("ab"), piece("c"))).feed(piece("abcd") + DONE)

    assert [e["choices"][0]["text"] for e in said(events)[:-1]] == ["d"]


@pytest.mark.parametrize(
    "replay",
    [
        chunk(content="Hello Wor"),
        chunk(content="Hello", finish="stop"),
        chunk(content="Hello") + DONE,
        chunk(reasoning_content="Hm"),
        event(error={"message": "x"}),
        chunk(tool_calls=[{"index": 0}]),
        b"data: {\n\n",
        b": comment\n\n",
    ],
)
def test_another_answer_is_not_told(replay: bytes) -> None:
    with pytest.raises(DivergedError):
        Continuation(told(*SENT)).feed(replay)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: {}",
        chunk(content="a", finish=None)[:-4] + b"\n\n",
        event(id="a", choices=[{"index": 1, "delta": {"content": "b"}}]),
        event(id="a", choices=[{"index": 0, "delta": {"content": "b"}, "logprobs": {"content": [1]}}]),
        event(id="a", choices=[{"index": 0, "delta": {"content": "b"}, "token_ids": [1]}]),
        chunk(tool_calls=[{"index": 0}]),
    ],
)
def test_what_is_more_than_one_text_cannot_be_continued(body: bytes) -> None:
    assert read_told(body) is None


def test_a_stream_with_its_last_event_lacks_nothing() -> None:
    assert told(chat_chunk("one"), DONE).done
    assert not told(*SENT).done


def test_chunks_are_undone() -> None:
    assert unchunked(chunked(b"ab") + b"1;x=y\r\nc\r\n") == b"abc"
    assert unchunked(b"") == b""
    assert unchunked(b"3\r\nab") is None


def test_nothing_is_told_after_the_last_event() -> None:
    with pytest.raises(DivergedError):
        Continuation(told(*SENT)).feed(b"".join(REPLAY) + chunk(content="more"))

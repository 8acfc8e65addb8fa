"""Traces and sessions become requests whose equal prefixes have equal keys."""

from itertools import pairwise
from pathlib import Path

import pytest

from baton.proxy.simulator.sessions import SessionLoad, generate_sessions
from baton.proxy.simulator.trace import TraceError, TraceRequest, read_trace, rescaled


def test_rows_become_requests_and_a_block_in_part_has_no_key(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"timestamp": 3000, "input_length": 1100, "output_length": 7, "hash_ids": [4, 5, 6]}\n'
        '{"timestamp": 1000, "input_length": 100, "output_length": 1, "hash_ids": [9]}\n'
    )

    assert rescaled(read_trace(path), 2.0) == [
        TraceRequest(at_s=0.5, prompt_tokens=100, output_tokens=1, keys=()),
        TraceRequest(at_s=1.5, prompt_tokens=1100, output_tokens=7, keys=(4, 5)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no requests"),
        (
            '{"timestamp": 0, "input_length": 0, "output_length": 1, "hash_ids": []}',
            r"line 1: .*input_length",
        ),
        ('{"timestamp": 0}', r"line 1: .*input_length"),
        ("nonsense", "line 1"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError, match=rf"t\.jsonl: {message}"):
        read_trace(path)


def test_sessions_repeat_by_seed_and_grow_turn_by_turn() -> None:
    load = SessionLoad(sessions=50, system_prompts=2)
    requests = generate_sessions(load, seed=1)

    assert requests == generate_sessions(load, seed=1) != generate_sessions(load, seed=2)
    assert [r.at_s for r in requests] == sorted(r.at_s for r in requests)
    assert all(len(r.keys) == r.prompt_tokens // 512 for r in requests)
    assert len({r.keys[:4] for r in requests}) == 2
    by_first_question: dict[int, list[TraceRequest]] = {}
    for request in requests:
        if len(request.keys) > 4:
            by_first_question.setdefault(request.keys[4], []).append(request)
    for turns in by_first_question.values():
        for earlier, later in pairwise(turns):
            assert later.keys[: len(earlier.keys)] == earlier.keys


def test_a_rescaled_trace_is_only_faster() -> None:
    requests = generate_sessions(SessionLoad(sessions=3), seed=0)

    assert [r.at_s * 4 for r in rescaled(requests, 4.0)] == pytest.approx([r.at_s for r in requests])

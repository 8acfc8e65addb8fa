"""Whatever the output goes to, it says the same."""

import io
import json

import pytest
from rich.console import Console

from baton.cli.child_events import Loading
from baton.cli.fleet_messages import Address, ShowFailure
from baton.cli.screen import JsonScreen, PlainScreen, Screen, TerminalScreen

URL = "http://127.0.0.1:8000"


def play(screen: Screen) -> None:
    """The life of a small fleet."""
    screen.started("decode-0", 77)
    for done in range(101):
        screen.loading("decode-0", Loading(stage="weights", done=done, total=100))
    screen.listening("decode-0", Address("127.0.0.1", 8000))
    screen.ready("decode-0")
    screen.line("decode-0", "a line with [markup] in it")
    screen.note("a note")
    screen.serving("1 pair", Address("127.0.0.1", 8000), "curl -N " + URL)
    screen.failure(ShowFailure(name="decode-0", reason="no [model]", last_lines=("last words",)))
    screen.close()


@pytest.mark.parametrize("terminal", [False, True])
def test_everything_worth_knowing_is_shown(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, no_color=True)

    play(TerminalScreen(console) if terminal else PlainScreen(out))

    said = out.getvalue()
    for words in (
        "pid 77",
        "a line with [markup] in it",
        "a note",
        URL,
        f"curl -N {URL}",
        "no [model]",
        "last words",
    ):
        assert words in said


def test_plain_progress_is_a_few_lines_only() -> None:
    out = io.StringIO()

    play(PlainScreen(out))

    assert [line.split()[-1] for line in out.getvalue().splitlines() if "loading" in line] == [
        "0%", "20%", "40%", "60%", "80%", "100%",
    ]  # fmt: skip


def test_an_unknown_total_is_shown_as_done() -> None:
    out = io.StringIO()

    PlainScreen(out).loading("decode-0", Loading(stage="compile", done=0, total=0))

    assert "100%" in out.getvalue()


def test_programs_get_one_object_a_line_and_no_logs_among_them() -> None:
    out, log = io.StringIO(), io.StringIO()

    play(JsonScreen(out, log))

    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert events[0] == {"event": "started", "name": "decode-0", "pid": 77}
    assert {"event": "serving", "url": URL, "text": "1 pair"} in events
    assert "markup" in log.getvalue()
    assert "markup" not in out.getvalue()

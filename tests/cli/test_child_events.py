"""Events are recognised among ordinary lines of output."""

import pytest

from baton.cli.child_events import ChildEvent, Fatal, Listening, Loading, Other, Ready, parse_line


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (
            b'{"event":"loading","stage":"weights","done":1,"total":9}',
            Loading(stage="weights", done=1, total=9),
        ),
        (b'{"event":"listening","host":"127.0.0.1","port":81}', Listening(host="127.0.0.1", port=81)),
        (b'{"event":"ready","incarnation":"abc"}', Ready()),
        (b'{"event":"fatal","message":"no model"}', Fatal(message="no model")),
        (b'{"event":"draining"}', Other(event="draining")),
    ],
)
def test_an_event_is_read_whatever_else_it_carries(line: bytes, event: ChildEvent) -> None:
    assert parse_line(line) == event


@pytest.mark.parametrize("line", [b"plain text", b"{not json", b'{"a":1}', b"", b"{\xff}"])
def test_everything_else_is_ordinary_text(line: bytes) -> None:
    assert parse_line(line) is None

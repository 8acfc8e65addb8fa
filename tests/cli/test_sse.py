"""Events come out whole, however the bytes were cut."""

from hypothesis import given
from hypothesis import strategies as st

from baton.cli.sse import SseParser

STREAM = b': comment\r\ndata: {"a":1}\r\n\r\nevent: x\ndata: one\ndata: two\n\ndata:three\n\ndata: cut'


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_every_complete_event_comes_out_once(cuts: list[int]) -> None:
    parser = SseParser()
    pieces = [STREAM[start:end] for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]

    assert [data for piece in pieces for data in parser.feed(piece)] == [b'{"a":1}', b"one\ntwo", b"three"]

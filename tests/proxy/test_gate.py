"""An event stream is cut at chunk ends only, however its bytes arrive."""

import pytest

from baton.proxy.gate import LONGEST_HELD_BYTES, ChunkGate, closing_chunks, whole_chunks

STREAM = b"5\r\nhello\r\n3;ext=1\r\nyou\r\nA\r\n0123456789\r\n"
ENDS = [0, 10, 24, 39]


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_only_whole_chunks_pass_and_all_of_them(cut: int) -> None:
    gate = ChunkGate()

    passed = gate.feed(STREAM[:cut])

    assert len(passed) == max(end for end in ENDS if end <= cut)
    assert passed + gate.feed(STREAM[cut:]) == STREAM
    assert gate.held == b""


def test_the_end_waits_until_it_is_known_to_be_whole() -> None:
    gate = ChunkGate()

    assert gate.feed(b"1\r\nx\r\n0\r\n\r\n") == b"1\r\nx\r\n"
    assert gate.flush() == b"0\r\n\r\n"


def test_what_is_not_chunked_passes_and_cannot_be_mended() -> None:
    gate = ChunkGate()

    assert whole_chunks(b"hello\r\nyou") is None
    assert gate.feed(b"hello\r\nyou") == b"hello\r\nyou"
    assert not gate.mendable
    assert gate.feed(b"more") == b"more"


def test_a_huge_chunk_is_not_held() -> None:
    gate = ChunkGate()
    start = b"FFFFFFF\r\n" + b"x" * LONGEST_HELD_BYTES

    assert gate.feed(start) == start
    assert not gate.mendable


def test_a_closing_event_is_a_chunk_and_the_end() -> None:
    assert closing_chunks(b"data: x\n\n") == b"9\r\ndata: x\n\n\r\n0\r\n\r\n"

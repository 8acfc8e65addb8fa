"""What goes by in C is what would have gone by in Python, to the byte and to the count."""

import contextlib
import gc
import os
import random
import socket
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baton.proxy.relay_leg import FIRST_READS, MOST_READS, SOON_EVENTS
from baton.proxy.routing.commands import Failure, Fault

from .fakes import DONE, chat_chunk, chunked, event
from .lanes import HEAD, Lane

END = b"0\r\n\r\n"
WORD = chunked(chat_chunk("word"))
TOLD_USAGE = chunked(event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 5}))


@pytest.fixture
def lanes(chunk_relay: ModuleType) -> Iterator["Lanes"]:
    with contextlib.closing(Lanes(chunk_relay)) as lanes:
        yield lanes


class Lanes:
    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self.made: list[Lane] = []

    def native(self, *, keeps: bool = True) -> Lane:
        """Return a lane whose stream has just been lent."""
        lane = self.fresh(keeps=keeps)
        for _ in range(FIRST_READS):
            lane.deliver(WORD)
        assert lane.lent
        return lane

    def fresh(self, *, keeps: bool = True) -> Lane:
        """Return a lane whose stream has begun."""
        return self._begun(Lane(self._module, keeps=keeps))

    def plain(self) -> Lane:
        """Return the same without the relay in C."""
        return self._begun(Lane(None))

    def _begun(self, lane: Lane) -> Lane:
        self.made.append(lane)
        lane.deliver(HEAD)
        lane.deliver(WORD)
        return lane

    def close(self) -> None:
        for lane in self.made:
            lane.close()


def framed(data: bytes, form: int) -> bytes:
    """Return one chunk, in one of the forms that are allowed."""
    size = (b"%x", b"%X", b"000%x", b"%x;name=value", b"%x ; a", b"%015x")[form] % len(data)
    return size + b"\r\n" + data + b"\r\n"


texts = st.one_of(
    st.sampled_from(
        [b"x", b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b'"usage":1\n\n', b"data: [DONE]\n\n"]
    ),
    st.binary(min_size=1, max_size=400),
    st.integers(1, 90_000).map(lambda length: b"y" * length),
)
chunks = st.builds(framed, st.lists(texts, min_size=1, max_size=3).map(b"".join), st.integers(0, 5))
endings = st.sampled_from([END, b"0\r\nTrailer: x\r\n\r\n", b"0;ext\r\n\r\n", b"5\r\nhel", b"zz\r\n", b""])


def reads(draw: st.DrawFn) -> list[bytes]:
    """Draw what a worker sends: mostly whole chunks, at times cut anywhere."""
    stream = [*draw(st.lists(chunks, max_size=8)), draw(endings)]
    pieces, waiting = [], b""
    for chunk in stream:
        waiting += chunk
        match draw(st.integers(0, 4)):
            case 0:
                continue  # it comes with the next
            case 1:
                cut = draw(st.integers(0, len(waiting)))
                pieces.append(waiting[:cut])
                waiting = waiting[cut:]
            case _:
                pieces.append(waiting)
                waiting = b""
    return [piece for piece in [*pieces, waiting] if piece]


def outcome(lane: Lane) -> tuple[object, ...]:
    leg = lane.leg
    fault = None if lane.broken is None else lane.broken.fault
    return (
        lane.got,
        leg.received,
        leg.events,
        leg.usage(),
        leg.relayed(),
        leg.whole,
        leg.mendable,
        lane.ended,
        fault,
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.composite(reads)())
def test_whatever_a_worker_sends_passes_as_without_it(chunk_relay: ModuleType, pieces: list[bytes]) -> None:
    with contextlib.closing(Lanes(chunk_relay)) as lanes:
        native, plain = lanes.native(), lanes.plain()
        for _ in range(FIRST_READS):
            plain.deliver(WORD)
        for lane in (native, plain):
            for piece in pieces:
                lane.deliver(piece)
            lane.worker.shutdown(socket.SHUT_WR)
            while not lane.over:
                lane.turn()

        assert outcome(native) == outcome(plain)


def test_a_steady_stream_is_not_read_by_the_loop(lanes: Lanes) -> None:
    lane = lanes.native()
    for _ in range(100):
        lane.deliver(WORD)

    assert (lane.lent, lane.upstream.reading) == (True, False)
    assert lane.got == HEAD + WORD * (101 + FIRST_READS)
    assert lane.leg.events == 101 + FIRST_READS
    assert lane.leg.received == len(lane.got)


def test_a_short_answer_is_not_lent(lanes: Lanes) -> None:
    lane = lanes.fresh()
    lane.deliver(WORD)
    lane.deliver(chunked(DONE) + END)

    assert (lane.ended, lane.lent) == (True, False)


def test_an_answer_that_ends_leaves_its_connection_in_order(lanes: Lanes) -> None:
    lane = lanes.native()
    lane.deliver(WORD + TOLD_USAGE)
    lane.deliver(chunked(DONE) + END)

    assert (lane.ended, lane.lent, lane.upstream.reading, lane.upstream.aborted) == (True, False, True, False)
    assert lane.leg.usage()[0].completion_tokens == 5
    assert lane.got.endswith(WORD + TOLD_USAGE + chunked(DONE) + END)


def test_a_read_that_is_no_chunk_is_the_parsers_to_judge(lanes: Lanes) -> None:
    lane = lanes.native()
    lane.deliver(b"hello")

    assert lane.broken is not None
    assert lane.broken.fault is Fault.MALFORMED
    assert lane.upstream.aborted


@pytest.mark.parametrize("cut", [0, 1, 2, 20, len(WORD) - 1])
def test_a_worker_that_dies_leaves_the_client_at_a_chunks_end(lanes: Lanes, cut: int) -> None:
    lane = lanes.native()
    lane.deliver(WORD)
    if cut:
        lane.deliver(WORD[:cut])
    lane.worker.close()
    while lane.broken is None:
        lane.turn()

    assert lane.broken.fault is Fault.LOST
    assert lane.leg.mendable
    assert lane.got == HEAD + WORD * (2 + FIRST_READS)
    assert lane.leg.relayed() == WORD * (2 + FIRST_READS)


def test_a_client_that_takes_nothing_gets_all_in_order_and_the_worker_waits(lanes: Lanes) -> None:
    lane = lanes.native()
    big = [chunked(random.Random(number).randbytes(20_000)) for number in range(200)]
    taken, lane.take = lane.take, lambda: None  # type: ignore[method-assign]
    sent = []
    while lane.lent:
        sent.append(big[len(sent)])
        lane.deliver(sent[-1])
    assert lane.downstream.waiting
    lane.leg.pause()  # as its transport has it told
    assert not lane.upstream.reading
    before = len(lane.downstream.waiting)
    lane.worker.send(big[len(sent)])
    sent.append(big[len(sent)])
    lane.turn()
    assert len(lane.downstream.waiting) == before
    lane.take = taken  # type: ignore[method-assign]
    while lane.downstream.waiting:
        lane.take()
    lane.leg.resume()
    lane.turn()

    assert lane.got == HEAD + WORD * (1 + FIRST_READS) + b"".join(sent)
    assert lane.leg.relayed() == lane.got[len(HEAD) :]


def test_a_stream_that_comes_back_at_once_is_lent_ever_later(lanes: Lanes) -> None:
    lane = lanes.native()
    waits = []
    for _ in range(12):
        lane.deliver(WORD[:9])
        lane.deliver(WORD[9:])
        waits.append(2)
        while not lane.lent:
            lane.deliver(WORD)
            waits[-1] += 1

    assert waits[:3] == [2 * FIRST_READS, 4 * FIRST_READS, 8 * FIRST_READS]
    assert waits[-2:] == [MOST_READS, MOST_READS]


def test_a_stream_that_went_well_for_long_is_lent_again_soon(lanes: Lanes) -> None:
    lane = lanes.native()
    for _ in range(SOON_EVENTS):
        lane.deliver(WORD)
    lane.deliver(WORD[:9])
    assert not lane.lent
    lane.deliver(WORD[9:])

    assert lane.lent


def test_what_is_not_kept_any_more_is_not_kept_there_either(lanes: Lanes) -> None:
    kept, forgotten = lanes.native(), lanes.native()
    for lane in (kept, forgotten):
        lane.deliver(WORD)
    stream = forgotten.leg._lent
    assert stream is not None
    assert stream.kept() == WORD
    forgotten.leg.forget()
    for lane in (kept, forgotten):
        lane.deliver(WORD)
        lane.leg.fail(Failure(Fault.LOST, "x"))

    assert (kept.leg.relayed(), forgotten.leg.relayed()) == (WORD * (3 + FIRST_READS), b"")
    assert (stream.kept(), stream.received) == (b"", 2 * len(WORD))


def test_a_leg_that_is_cancelled_writes_no_more_though_its_descriptors_live_on(lanes: Lanes) -> None:
    lane = lanes.native()
    worker, client = lane.upstream.end.fileno(), lane.downstream.end.fileno()
    readable = lane.loop.readable
    lane.worker.send(WORD)
    lane.leg.cancel()
    lane.downstream.end.close()
    others = [
        socket.socketpair() for _ in range(8)
    ]  # the lowest free numbers: those of the two and the copies
    try:
        assert {worker, client} <= {end.fileno() for pair in others for end in pair}
        for one, other in others:
            one.send(WORD)
            readable()
            assert other.recv(1 << 16) == WORD
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
    finally:
        for pair in others:
            for end in pair:
                end.close()


def test_a_stream_whose_sockets_were_closed_under_it_does_not_take_their_numbers_new_owners(
    chunk_relay: ModuleType,
) -> None:
    relay = chunk_relay.ChunkRelay()
    (worker, upstream), (client, downstream) = socket.socketpair(), socket.socketpair()
    stream = relay.attach(upstream.fileno(), downstream.fileno(), False, None)
    numbers = {upstream.fileno(), downstream.fileno()}
    upstream.close()
    downstream.close()
    other, another = socket.socketpair()
    with worker, client, other, another:
        assert {other.fileno(), another.fileno()} == numbers
        other.send(WORD)
        another.send(WORD)
        worker.send(WORD)
        assert relay.pump() == []
        assert (client.recv(1 << 16), other.recv(1 << 16), another.recv(1 << 16)) == (WORD, WORD, WORD)
        assert stream.received == len(WORD)
        stream.detach()
        assert client.recv(1) == b""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_descriptor_is_left_in_whatever_order_things_go(chunk_relay: ModuleType) -> None:
    (worker, upstream), (client, downstream) = socket.socketpair(), socket.socketpair()
    with worker, upstream, client, downstream:
        ends = upstream.fileno(), downstream.fileno()
        before = descriptors()
        relay = chunk_relay.ChunkRelay()
        relay.attach(*ends, True, None)  # dropped at once
        stream = relay.attach(*ends, True, None)
        stream.detach()
        stream.detach()
        stream = relay.attach(*ends, True, None)
        del relay  # before its stream
        stream.detach()
        relay = chunk_relay.ChunkRelay()
        stream = relay.attach(*ends, True, None)
        relay.close()
        relay.close()
        assert relay.pump() == []
        with pytest.raises(OSError, match="Bad file descriptor"):
            relay.attach(*ends, True, None)
        del stream
        relay = chunk_relay.ChunkRelay()
        with pytest.raises(OSError, match="Bad file descriptor"):
            relay.attach(ends[0], 999_999, True, None)
        worker.send(b"?")
        stream = relay.attach(*ends, True, None)
        del relay.pump()[:]

        del relay, stream
        assert descriptors() == before


def test_a_forgotten_owner_takes_its_stream_along(chunk_relay: ModuleType) -> None:
    class Owner:
        stream: object = None

    relay = chunk_relay.ChunkRelay()
    (worker, upstream), (client, downstream) = socket.socketpair(), socket.socketpair()
    with worker, upstream, client, downstream:
        before = descriptors()
        owner = Owner()
        owner.stream = relay.attach(upstream.fileno(), downstream.fileno(), True, owner)
        del owner
        gc.collect()

        assert descriptors() == before
        worker.send(WORD)
        assert relay.pump() == []


def test_one_that_fails_to_go_on_keeps_no_other_from_it(lanes: Lanes) -> None:
    one, two = lanes.native(), lanes.native()
    assert one.native is not None
    later = []
    one.loop.call_soon = lambda call, *arguments: later.append((call, arguments))  # type: ignore[attr-defined]

    class Stream:
        def __init__(self, owner: object) -> None:
            self.owner = owner

    class Faulty:
        def taken_back(self) -> None:
            raise ZeroDivisionError

    class Sound:
        told = 0

        def taken_back(self) -> None:
            self.told += 1

    sound = Sound()
    streams = [Stream(sound), Stream(None), Stream(Faulty()), Stream(sound)]
    with pytest.raises(ZeroDivisionError):
        one.native._hand_back(streams)  # type: ignore[arg-type]
    [(call, arguments)] = later
    call(*arguments)

    assert sound.told == 2
    assert two.lent


def test_hundreds_of_streams_pass_in_one_turn(lanes: Lanes, chunk_relay: ModuleType) -> None:
    relay = chunk_relay.ChunkRelay()
    pairs = [(socket.socketpair(), socket.socketpair()) for _ in range(300)]
    streams = [
        relay.attach(upstream.fileno(), downstream.fileno(), True, number)
        for number, ((_, upstream), (_, downstream)) in enumerate(pairs)
    ]
    try:
        for number, ((worker, _), _) in enumerate(pairs):
            worker.send(chunked(b"%d\n\n" % number) if number % 3 else b"0\r\n\r\n")
        back = [*relay.pump(), *relay.pump()]

        assert sorted(stream.owner for stream in back) == list(range(0, 300, 3))
        assert {stream.rest for stream in back} == {b"0\r\n\r\n"}
        for number, (_, (client, _)) in enumerate(pairs):
            if number % 3:
                assert client.recv(1 << 16) == chunked(b"%d\n\n" % number) == streams[number].kept()
                assert streams[number].events == 1
    finally:
        for pair in pairs:
            for end in (*pair[0], *pair[1]):
                end.close()

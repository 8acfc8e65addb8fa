"""The transport's thread: every read is reported once, it polls when it must, and closing never forces."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from baton.kvtransfer.service import PoolRegion
from baton.kvtransfer.transfer_thread import TransferThread
from baton.kvtransfer.transports.base import (
    ReadOutcome,
    TransportError,
    TransportUnavailableError,
    UnknownPeerError,
)

from .builders import WAIT_S


class FakeTransport:
    """Ends reads when the test says so; counts polls."""

    def __init__(self, *, needs_polling: bool = True) -> None:
        self.needs_polling = needs_polling
        self.posted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.terminal: queue.SimpleQueue[ReadOutcome] = queue.SimpleQueue()
        self.polls = 0
        self.polled = threading.Event()
        self.broken = False
        self.ended = ""

    def register(self, region: PoolRegion) -> None:
        raise NotImplementedError

    def describe(self) -> bytes:
        return threading.current_thread().name.encode()

    def add_peer(self, peer: str, description: bytes, region: PoolRegion) -> None:
        raise TransportError("no")

    def remove_peer(self, peer: str) -> None:
        raise NotImplementedError

    def read(
        self, read_id: int, peer: str, remote_block_ids: Sequence[int], local_block_ids: Sequence[int]
    ) -> None:
        if peer == "nobody":
            raise UnknownPeerError("peer nobody was not added")
        self.posted.put(read_id)

    def poll(self) -> list[ReadOutcome]:
        self.polls += 1
        self.polled.set()
        if self.broken:
            raise TransportError("the backend is unwell")
        outcomes = []
        while not self.terminal.empty():
            outcomes.append(self.terminal.get())
        return outcomes

    def close(self) -> None:
        self.ended = "closed"

    def abandon(self) -> None:
        self.ended = "abandoned"

    def end(self, read_id: int) -> None:
        self.terminal.put(ReadOutcome(read_id=read_id, done_at=1.0, post_s=0.0))

    def is_polled_again(self) -> bool:
        self.polled.clear()
        return self.polled.wait(WAIT_S)


def started(transport: FakeTransport) -> TransferThread:
    thread = TransferThread(lambda _name, _wake: transport, "a")
    thread.start()
    return thread


def test_a_read_is_reported_once_when_it_is_terminal() -> None:
    transport = FakeTransport()
    thread = started(transport)
    outcomes: queue.SimpleQueue[ReadOutcome] = queue.SimpleQueue()
    thread.read("b", [1], [1], outcomes.put)
    read_id = transport.posted.get(timeout=WAIT_S)
    assert outcomes.empty()
    transport.end(read_id)

    assert outcomes.get(timeout=WAIT_S).error is None
    thread.close(0.0)
    assert outcomes.empty()
    assert transport.ended == "closed"


def test_a_refused_read_is_reported_with_its_reason() -> None:
    thread = started(FakeTransport())
    outcomes: queue.SimpleQueue[ReadOutcome] = queue.SimpleQueue()
    thread.read("nobody", [1], [1], outcomes.put)

    assert outcomes.get(timeout=WAIT_S).error == "peer nobody was not added"
    thread.close(0.0)


def test_calls_run_in_the_thread_and_raise_in_the_caller() -> None:
    thread = started(FakeTransport())
    region = PoolRegion(address=0, block_bytes=1, num_blocks=1)

    assert thread.call(lambda transport: transport.describe()).result(WAIT_S) == b"kv-transfer"
    with pytest.raises(TransportError, match="no"):
        thread.call(lambda transport: transport.add_peer("b", b"", region)).result(WAIT_S)
    thread.close(0.0)


def test_it_polls_while_a_read_is_in_flight() -> None:
    transport = FakeTransport()
    thread = started(transport)
    thread.read("b", [1], [1], lambda _: None)
    read_id = transport.posted.get(timeout=WAIT_S)

    assert all(transport.is_polled_again() for _ in range(20))
    transport.end(read_id)
    thread.close(WAIT_S)


def test_it_polls_while_it_serves_and_hardly_when_idle() -> None:
    transport = FakeTransport()
    thread = started(transport)
    started_at = time.monotonic()
    thread.serve(0.05)
    assert all(transport.is_polled_again() for _ in range(5))
    while time.monotonic() < started_at + 0.06:
        transport.polled.wait(0.01)
    before = transport.polls
    idle = threading.Event()
    idle.wait(0.2)

    assert transport.polls <= before + 2
    thread.close(0.0)


def test_a_transport_that_calls_is_polled_when_it_calls() -> None:
    transport = FakeTransport(needs_polling=False)
    wakes: list[Callable[[], None]] = []
    thread = TransferThread(lambda _name, wake: (wakes.append(wake), transport)[1], "a")
    thread.start()
    outcomes: queue.SimpleQueue[ReadOutcome] = queue.SimpleQueue()
    thread.read("b", [1], [1], outcomes.put)
    transport.end(transport.posted.get(timeout=WAIT_S))
    wakes[0]()

    assert outcomes.get(timeout=0.5).read_id == 1
    thread.close(0.0)


def test_a_failing_poll_loses_no_read() -> None:
    transport = FakeTransport()
    thread = started(transport)
    outcomes: queue.SimpleQueue[ReadOutcome] = queue.SimpleQueue()
    thread.read("b", [1], [1], outcomes.put)
    read_id = transport.posted.get(timeout=WAIT_S)
    transport.broken = True
    assert transport.is_polled_again()
    transport.broken = False
    transport.end(read_id)

    assert outcomes.get(timeout=WAIT_S).error is None
    thread.close(0.0)


def test_closing_waits_for_a_read_in_flight() -> None:
    transport = FakeTransport()
    thread = started(transport)
    thread.read("b", [1], [1], lambda _: None)
    read_id = transport.posted.get(timeout=WAIT_S)
    closing = threading.Thread(target=thread.close, args=(WAIT_S,))
    closing.start()
    assert transport.is_polled_again()
    assert transport.ended == ""
    transport.end(read_id)
    closing.join()

    assert transport.ended == "closed"


def test_a_transport_with_a_read_in_flight_is_never_destroyed() -> None:
    transport = FakeTransport()
    thread = started(transport)
    thread.read("b", [1], [1], lambda _: None)
    transport.posted.get(timeout=WAIT_S)
    thread.close(0.01)

    assert transport.ended == "abandoned"


def test_a_transport_that_cannot_be_made_is_an_error_of_start() -> None:
    def fail(_name: str, _wake: Callable[[], None]) -> FakeTransport:
        raise TransportUnavailableError("not here")

    with pytest.raises(TransportUnavailableError, match="not here"):
        TransferThread(fail, "a").start()

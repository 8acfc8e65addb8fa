"""The inbox wakes for messages and for events from other threads, and loses neither."""

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from baton.engine.inbox import ProcessInbox
from baton.engine.messages import Abort, CheckIntegrity, EngineFatal, EngineMessage
from baton.kvtransfer.service import QuarantineLifted

LONG_S = 30.0


@pytest.fixture
def frontend(tmp_path: Path) -> Iterator["zmq.Socket[bytes]"]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.bind(f"ipc://{tmp_path}/s")
    yield socket
    socket.close(linger=0)
    context.term()


@pytest.fixture
def inbox(tmp_path: Path, frontend: "zmq.Socket[bytes]") -> Iterator[ProcessInbox]:
    inbox = ProcessInbox(f"ipc://{tmp_path}/s")
    yield inbox
    inbox.close()


def test_messages_arrive_in_order_and_all_at_once(inbox: ProcessInbox, frontend: "zmq.Socket[bytes]") -> None:
    sent = [Abort(request_id="a"), CheckIntegrity(call_id="c"), Abort(request_id="b", choice=1)]
    for message in sent:
        frontend.send(msgspec.msgpack.encode(message))

    received: list[object] = []
    while len(received) < 3:
        inbox.wait(LONG_S)
        received += inbox.messages()
    assert received == sent
    assert inbox.messages() == []


def test_what_is_sent_arrives_even_when_the_inbox_closes_at_once(
    tmp_path: Path, frontend: "zmq.Socket[bytes]"
) -> None:
    inbox = ProcessInbox(f"ipc://{tmp_path}/s")
    inbox.send(EngineFatal(message="goodbye"))
    inbox.close()

    assert frontend.poll(LONG_S * 1000)
    decoded = msgspec.msgpack.decode(frontend.recv(), type=EngineMessage)  # type: ignore[arg-type]
    assert decoded == EngineFatal(message="goodbye")


def test_an_event_from_another_thread_ends_the_wait(inbox: ProcessInbox) -> None:
    event = QuarantineLifted(pull_id="p")
    poster = threading.Thread(target=inbox.post, args=(event,))
    poster.start()
    inbox.wait(LONG_S)

    assert inbox.events() == [event]
    assert inbox.events() == []
    poster.join()


def test_without_anything_to_hear_the_wait_ends_after_its_time(inbox: ProcessInbox) -> None:
    inbox.wait(0.001)

    assert (inbox.messages(), inbox.events()) == ([], [])

"""Subscribers get every step once, in order, and can ask for what they missed: read here with plain ZMQ."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from baton.kvtransfer.event_publisher import KvEventPublisher
from baton.kvtransfer.events import BlockRemoved, KvEvent, decode_batch

END = [b"", b"\xff" * 8, b""]


def removed(block: int) -> list[KvEvent]:
    return [BlockRemoved(block_hashes=[block], medium="GPU")]


class Sockets:
    """Opens sockets for a test and closes them after it."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._opened: list[zmq.Socket[bytes]] = []

    def connect(self, kind: int, endpoint: str) -> "zmq.Socket[bytes]":
        opened = self._context.socket(kind)
        self._opened.append(opened)
        opened.connect(endpoint)
        return opened

    def close(self) -> None:
        for opened in self._opened:
            opened.close(linger=0)
        self._context.term()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    sockets.close()


@pytest.fixture
def publisher() -> Iterator[KvEventPublisher]:
    publisher = KvEventPublisher(
        endpoint="tcp://127.0.0.1:*", replay_endpoint="tcp://127.0.0.1:*", topic="kv", buffer_steps=3
    )
    yield publisher
    publisher.close()


def subscribed(sockets: Sockets, publisher: KvEventPublisher) -> "zmq.Socket[bytes]":
    """Return a subscriber that is known to receive: one event, repeated until it arrives."""
    subscriber = sockets.connect(zmq.SUB, publisher.endpoint)
    subscriber.subscribe("kv")
    while not subscriber.poll(20):
        publisher.publish(removed(0))
    return subscriber


def requester(sockets: Sockets, endpoint: str | None) -> "zmq.Socket[bytes]":
    assert endpoint is not None
    return sockets.connect(zmq.DEALER, endpoint)


def replay(request: "zmq.Socket[bytes]", first: int) -> list[list[bytes]]:
    request.send_multipart([b"", first.to_bytes(8, "big")])
    answers = []
    while True:
        assert request.poll(10_000)
        empty, *frames = request.recv_multipart()
        assert empty == b""
        if frames == END:
            return answers
        answers.append(frames)


def test_each_step_is_one_message_of_topic_sequence_and_payload(
    sockets: Sockets, publisher: KvEventPublisher
) -> None:
    subscriber = subscribed(sockets, publisher)
    publisher.publish(removed(7))
    publisher.publish([])
    publisher.publish(removed(8))

    received = []
    while not received or decode_batch(received[-1][2]).events != removed(8):
        assert subscriber.poll(10_000)
        received.append(subscriber.recv_multipart())
    sequences = [int.from_bytes(sequence, "big") for _, sequence, _ in received]

    assert {topic for topic, _, _ in received} == {b"kv"}
    assert sequences == list(range(sequences[0], sequences[0] + len(received)))
    assert [decode_batch(payload).events for _, _, payload in received[-2:]] == [removed(7), removed(8)]
    assert decode_batch(received[-1][2]).data_parallel_rank == 0


def test_a_replay_starts_where_it_was_asked_to_and_reaches_as_far_back_as_the_buffer(
    sockets: Sockets, publisher: KvEventPublisher
) -> None:
    for block in range(5):
        publisher.publish(removed(block))
    request = requester(sockets, publisher.replay_endpoint)
    while len(replay(request, 4)) < 1:
        pass

    sequences = [int.from_bytes(sequence, "big") for _, sequence, _ in replay(request, 3)]
    everything = replay(request, 0)

    assert sequences == [3, 4]
    assert [topic for topic, _, _ in everything] == [b"kv"] * 3
    assert [decode_batch(payload).events for _, _, payload in everything] == [removed(b) for b in (2, 3, 4)]
    assert replay(request, 5) == []


def test_a_request_that_is_none_is_ignored(sockets: Sockets, publisher: KvEventPublisher) -> None:
    request = requester(sockets, publisher.replay_endpoint)
    request.send_multipart([b"what"])

    assert replay(request, 0) == []


def test_what_was_published_before_closing_is_sent(sockets: Sockets, tmp_path: Path) -> None:
    publisher = KvEventPublisher(endpoint=f"ipc://{tmp_path}/events", topic="kv")
    subscriber = subscribed(sockets, publisher)
    publisher.publish(removed(9))
    publisher.close()

    last = None
    while subscriber.poll(200):
        last = subscriber.recv_multipart()
    assert last is not None
    assert decode_batch(last[2]).events == removed(9)


def test_a_data_parallel_rank_raises_the_port_and_stands_in_the_batch(
    sockets: Sockets, tmp_path: Path
) -> None:
    publisher = KvEventPublisher(endpoint=f"ipc://{tmp_path}/events", topic="kv", data_parallel_rank=2)
    subscriber = subscribed(sockets, publisher)

    assert publisher.endpoint.endswith("/events_dp2")
    assert decode_batch(subscriber.recv_multipart()[2]).data_parallel_rank == 2
    publisher.close()


def test_an_endpoint_that_is_taken_is_an_error(publisher: KvEventPublisher) -> None:
    taken = publisher.replay_endpoint
    assert taken is not None

    with pytest.raises(zmq.ZMQError, match="Address already in use"):
        KvEventPublisher(endpoint="inproc://unused", replay_endpoint=taken)

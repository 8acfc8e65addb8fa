"""Publishes KV events on ZMQ, in vLLM's frames, from a thread of its own.

    PUB      [topic, sequence (8 bytes, big-endian, from 0), payload]
    ROUTER   asked ["", first sequence], answers ["", topic, sequence, payload]..., then ["", "", ff x 8, ""]

A subscriber that finds a gap in the sequence asks the ROUTER for what it missed, as far back as the buffer
reaches. `publish` never blocks: ZMQ drops for subscribers that do not keep up, and they see the gap.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator

import zmq

from .events import KvEvent, KvEventBatch, encode_batch

END_OF_REPLAY = b"\xff" * 8
_WAKE_ENDPOINT = "inproc://kv-events"


class KvEventPublisher:
    """One worker's event stream. `publish` is called from one thread, the engine's."""

    def __init__(
        self,
        *,
        endpoint: str,
        replay_endpoint: str | None = None,
        topic: str = "",
        buffer_steps: int = 10_000,
        data_parallel_rank: int = 0,
    ) -> None:
        """Open the sockets. Raises `zmq.ZMQError` for an endpoint that cannot be had.

        An endpoint with a wildcard, as in `tcp://*:5557`, is bound, and so is `ipc://` or `inproc://`; one
        with a concrete host is connected to. A TCP port is raised by the rank.
        """
        self._topic = topic.encode()
        self._rank = data_parallel_rank
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=buffer_steps)
        self._sequence = 0
        self._context = zmq.Context()
        self._publications = self._open(zmq.PUB, endpoint)
        self._replays: zmq.Socket[bytes] | None = None
        if replay_endpoint is not None:
            self._replays = self._open(zmq.ROUTER, replay_endpoint, bind=True)
        self.endpoint = _last_endpoint(self._publications)
        self.replay_endpoint = None if self._replays is None else _last_endpoint(self._replays)
        self._incoming = self._context.socket(zmq.PULL)
        self._incoming.bind(_WAKE_ENDPOINT)
        self._outgoing = self._context.socket(zmq.PUSH)
        self._outgoing.set_hwm(0)
        self._outgoing.connect(_WAKE_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="kv-events", daemon=True)
        self._thread.start()

    def publish(self, events: list[KvEvent]) -> None:
        """Send what one step did to the cache, stamped with the time now; nothing for no events."""
        if events:
            batch = KvEventBatch(ts=time.time(), events=events, data_parallel_rank=self._rank)
            self._outgoing.send(encode_batch(batch))

    def close(self) -> None:
        """Send what was published, then close the sockets."""
        self._outgoing.send(b"")
        self._thread.join()
        self._outgoing.close(linger=0)
        self._context.term()

    def _open(self, kind: int, endpoint: str, *, bind: bool = False) -> "zmq.Socket[bytes]":
        endpoint = _with_rank(endpoint, self._rank)
        opened = self._context.socket(kind)
        opened.set_hwm(100_000)
        try:
            if bind or "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://")):
                opened.bind(endpoint)
            else:
                opened.connect(endpoint)
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise
        return opened

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._incoming, zmq.POLLIN)
        if self._replays is not None:
            poller.register(self._replays, zmq.POLLIN)
        open_ = True
        while open_:
            ready = dict(poller.poll())
            if self._incoming in ready:
                open_ = self._publish_pending()
            if self._replays is not None and self._replays in ready:
                self._replay(self._replays)
        self._incoming.close(linger=0)
        self._publications.close(linger=1000)
        if self._replays is not None:
            self._replays.close(linger=1000)

    def _publish_pending(self) -> bool:
        """Send one batch; False for the mark that `close` sends."""
        payload = self._incoming.recv()
        if not payload:
            return False
        sequence = self._sequence.to_bytes(8, "big")
        self._sequence += 1
        self._buffer.append((sequence, payload))
        self._publications.send_multipart([self._topic, sequence, payload])
        return True

    def _replay(self, replays: "zmq.Socket[bytes]") -> None:
        frames = replays.recv_multipart()
        if len(frames) != 3:  # not [client, "", sequence]: nobody we could answer
            return
        client, _, first = frames
        for sequence, payload in self._since(first):
            replays.send_multipart([client, b"", self._topic, sequence, payload])
        replays.send_multipart([client, b"", b"", END_OF_REPLAY, b""])

    def _since(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        start = int.from_bytes(first, "big")
        for sequence, payload in self._buffer:
            if int.from_bytes(sequence, "big") >= start:
                yield sequence, payload


def _with_rank(endpoint: str, rank: int) -> str:
    """Return the endpoint of a data-parallel rank: the TCP port raised by it, other names suffixed."""
    if rank == 0:
        return endpoint
    if endpoint.startswith("tcp://"):
        host, _, port = endpoint.rpartition(":")
        return f"{host}:{int(port) + rank}"
    return f"{endpoint}_dp{rank}"


def _last_endpoint(opened: "zmq.Socket[bytes]") -> str:
    last = opened.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(last, bytes)
    return last.rstrip(b"\x00").decode()

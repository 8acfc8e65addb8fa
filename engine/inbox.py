"""The engine loop's only door: messages to and from the frontend, events from the transfer service.

Between steps the loop drains both without waiting. When it has nothing to compute it sleeps in `wait`, on the
socket and on an event counter that the transfer service's threads raise. Only `post` and `ring` may be
called from another thread.
"""

import math
import os
import queue
from typing import Protocol

import msgspec
import zmq

from ..kvtransfer.service import TransferEvent
from .messages import EngineMessage, FrontendMessage

FAREWELL_S = 5.0
"""Last messages get this long to leave when the inbox is closed."""


class Inbox(Protocol):
    """What the loop hears and says."""

    def messages(self) -> list[FrontendMessage]:
        """Return what the frontend has sent, without waiting."""

    def events(self) -> list[TransferEvent]:
        """Return what the transfer service has reported, without waiting."""

    def wait(self, timeout_s: float) -> None:
        """Return when there is something to hear, or after the time."""

    def send(self, message: EngineMessage) -> None:
        """Tell the frontend, in order, without waiting."""


class ProcessInbox:
    """The inbox of an engine process, connected to its frontend's pair socket."""

    def __init__(self, ipc: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        # Neither side may stall the other: what bounds the queues is the number of open requests.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(ipc)
        self._events: queue.SimpleQueue[TransferEvent] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FrontendMessage] = msgspec.msgpack.Decoder(FrontendMessage)

    def post(self, event: TransferEvent) -> None:
        """Hand an event over and wake the loop; from any thread."""
        self._events.put(event)
        self.ring()

    def ring(self) -> None:
        """Wake the loop; from any thread."""
        os.eventfd_write(self._bell, 1)

    def messages(self) -> list[FrontendMessage]:
        """Return what the frontend has sent, without waiting."""
        received = []
        while self._has_message():
            received.append(self._decoder.decode(self._socket.recv(zmq.NOBLOCK)))
        return received

    def events(self) -> list[TransferEvent]:
        """Return what the transfer service has reported, without waiting."""
        received = []
        while not self._events.empty():
            received.append(self._events.get_nowait())
        return received

    def _has_message(self) -> bool:
        events = self._socket.get(zmq.EVENTS)  # at a tenth of what `poll` takes
        assert isinstance(events, int)
        return bool(events & zmq.POLLIN)

    def wait(self, timeout_s: float) -> None:
        """Return when there is something to hear, or after the time."""
        ready = dict(self._poller.poll(math.ceil(timeout_s * 1000)))
        if self._bell in ready:
            os.eventfd_read(self._bell)

    def send(self, message: EngineMessage) -> None:
        """Tell the frontend, in order, without waiting."""
        self._socket.send(self._encoder.encode(message))

    def close(self, farewell_s: float = FAREWELL_S) -> None:
        """Let the last messages leave; nothing may be posted any more."""
        self._socket.close(linger=int(farewell_s * 1000))
        self._context.term()
        os.close(self._bell)

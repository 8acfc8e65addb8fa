"""The frontend's end of the pair socket to its engine process: msgpack messages, event loop only.

Reads by readiness of the socket's file descriptor and never waits: the engine's messages are handed to one
callback in order. It knows nothing of requests; `engine_client` does.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from ..messages import EngineMessage, FrontendMessage


class EngineGoneError(ConnectionError):
    """No engine process is connected to the socket."""


class EngineSocket:
    """A bound PAIR socket that one engine process connects to."""

    def __init__(self, path: Path, on_message: Callable[[EngineMessage], None]) -> None:
        """Bind `path` as a Unix socket; must be called in the running event loop."""
        self._on_message = on_message
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[EngineMessage] = msgspec.msgpack.Decoder(EngineMessage)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set_hwm(0)  # the number of requests is bounded by the engine, not by dropping messages
        self._socket.bind(f"ipc://{path}")
        self._loop = asyncio.get_running_loop()
        self._descriptor = self._int_option(zmq.FD)
        self._read_again: asyncio.Handle | None = None
        self._loop.add_reader(self._descriptor, self._read_all)

    def send(self, message: FrontendMessage) -> None:
        """Queue a message. Raises `EngineGoneError` when no engine is connected."""
        try:
            self._socket.send(self._encoder.encode(message), zmq.NOBLOCK, copy=True)
        except zmq.Again as error:
            raise EngineGoneError("no engine process is connected") from error
        # Sending may swallow the readiness of messages that came meanwhile (ZMQ_FD is edge-triggered).
        if self._read_again is None:
            self._read_again = self._loop.call_soon(self._read_all)

    def close(self) -> None:
        """Stop reading and close; messages not yet sent are dropped."""
        self._loop.remove_reader(self._descriptor)
        if self._read_again is not None:
            self._read_again.cancel()
        self._socket.close()
        self._context.term()

    def _read_all(self) -> None:
        self._read_again = None
        while self._int_option(zmq.EVENTS) & zmq.POLLIN:
            self._on_message(self._decoder.decode(self._socket.recv(zmq.NOBLOCK)))

    def _int_option(self, option: int) -> int:
        value = self._socket.get(option)
        assert isinstance(value, int)
        return value

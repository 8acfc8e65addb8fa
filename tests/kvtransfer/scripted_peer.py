"""A prefill worker that answers as a test tells it to: real sockets and bytes, its own idea of the truth."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from baton.kvtransfer.layout import KvLayout
from baton.kvtransfer.messages import (
    PROTOCOL_VERSION,
    Describe,
    FrameDecoder,
    Granted,
    GrantRequest,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Message,
    PeerDescription,
    RenewRequest,
    Settle,
    SettleReply,
    encode_frame,
)
from baton.kvtransfer.transports.sockets import SocketTransport

from .builders import random_pool, region_of

Answer = Callable[[Any], Message | None]
TTL_S = 30.0


class ScriptedPeer:
    """Answers every message by its type; `script` replaces answers, and None as an answer is silence."""

    def __init__(self, layout: KvLayout, *, num_blocks: int, seed: int, script: dict[type, Answer]) -> None:
        self.incarnation = f"scripted-{seed}"
        self.pool = random_pool(num_blocks, seed, layout.block_bytes)
        self.received: list[Message] = []
        self._layout = layout
        self._transport = SocketTransport(self.incarnation, lambda: None, host="127.0.0.1")
        self._transport.register(region_of(self.pool))
        self._script = {**self._honest(), **script}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def drop(self) -> None:
        """Break every connection; new ones are accepted."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        self._thread.join()
        self._transport.close()

    def _honest(self) -> dict[type, Answer]:
        description = PeerDescription(
            incarnation=self.incarnation,
            metadata=self._transport.describe(),
            region=region_of(self.pool),
        )
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            incarnation=self.incarnation,
            transport="socket",
            layout=self._layout,
        )
        return {
            Hello: lambda _: hello,
            Describe: lambda _: description,
            GrantRequest: lambda request: Granted(call_id=request.call_id, ttl_s=TTL_S),
            RenewRequest: lambda request: Granted(call_id=request.call_id, ttl_s=TTL_S),
            Settle: lambda settle: SettleReply(call_id=settle.call_id),
            Heartbeat: lambda heartbeat: HeartbeatReply(call_id=heartbeat.call_id),
        }

    def _accept(self) -> None:
        threads = []
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threads.append(threading.Thread(target=self._talk, args=(connection,)))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def _talk(self, connection: socket.socket) -> None:
        decoder = FrameDecoder()
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                for message in decoder.feed(data):
                    self.received.append(message)
                    answer = self._script[type(message)](message)
                    if answer is not None:
                        connection.sendall(encode_frame(answer))

"""A leg between two pairs of sockets, moved by hand, step by step as the loop and its transports would do."""

import asyncio
import socket
from types import ModuleType
from typing import Any

from baton.proxy.cork import Cork, CorkedTransport
from baton.proxy.native_relay import NativeRelay
from baton.proxy.relay_leg import RelayLeg
from baton.proxy.routing.commands import Failure
from baton.proxy.upstream import Connection, Pool, TcpAddress

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class HandLoop:
    """Keeps what the loop would call."""

    def __init__(self) -> None:
        self.readable: Any = None
        self.soon: list[Any] = []

    def add_reader(self, descriptor: int, call: Any) -> None:
        self.readable = call

    def call_soon(self, call: Any) -> None:
        self.soon.append(call)

    def end_turn(self) -> None:
        """Make the calls that wait for the turn's end."""
        calls, self.soon = self.soon, []
        for call in calls:
            call()

    def remove_reader(self, descriptor: int) -> None:
        self.readable = None


class Wire:
    """A transport that reads when told to, and keeps what its socket does not take."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self.reading = True
        self.waiting = b""
        self.aborted = False

    def get_extra_info(self, name: str) -> Any:
        return self.end if name == "socket" else None

    def write(self, data: bytes) -> None:
        self.waiting += data
        self.flush()

    def flush(self) -> None:
        while self.waiting:
            try:
                sent = self.end.send(self.waiting)
            except BlockingIOError:
                return
            self.waiting = self.waiting[sent:]

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True
        self.end.close()


class Lane:
    """One leg, its worker and its client. It is the leg's owner."""

    def __init__(self, module: ModuleType | None, *, keeps: bool = True) -> None:
        self.loop = HandLoop()
        self.native = None if module is None else NativeRelay(self.loop, module.ChunkRelay())  # type: ignore[arg-type]
        self.worker, upstream = socket.socketpair()
        self.client, downstream = socket.socketpair()
        self.client.setblocking(False)
        self.upstream, self.downstream = Wire(upstream), Wire(downstream)
        self.broken: Failure | None = None
        self.ended = False
        self.got = b""
        cork = Cork(self.loop)  # type: ignore[arg-type]
        self._corked = CorkedTransport(self.downstream, cork)  # type: ignore[arg-type]
        pool = Pool(TcpAddress("x", 1), asyncio.TaskGroup(), cork, connect_timeout_s=1.0, max_idle=1)
        self.leg = RelayLeg(self, pool, (b"",))
        connection = Connection(pool)
        connection.connection_made(self.upstream)  # type: ignore[arg-type]
        connection.rider = self.leg
        self._connection = connection
        if keeps:
            self.leg.keep()
        self.leg.connected(connection)

    @property
    def over(self) -> bool:
        return self.ended or self.broken is not None

    @property
    def lent(self) -> bool:
        return self.leg._lent is not None

    def now(self) -> float:
        return 0.0

    def leg_answered(self) -> None:
        self.leg.relay_to(self._corked, b"", self.native)

    def leg_ended(self) -> None:
        self.ended = True

    def leg_broken(self, failure: Failure) -> None:
        self.broken = failure

    def deliver(self, data: bytes) -> None:
        """Have the worker send `data`, and whoever reads it do so."""
        while data and not self.over:
            sent = self.worker.send(data[: 32 * 1024])
            data = data[sent:]
            self.turn()

    def turn(self) -> None:
        """What one turn of the loop does."""
        if self.loop.readable is not None and self.lent:
            self.loop.readable()
        if self.upstream.reading and not self.upstream.aborted:
            self._read()
        self.loop.end_turn()
        self.take()

    def _read(self) -> None:
        try:
            data = self.upstream.end.recv(256 * 1024)
        except BlockingIOError:
            return
        if data:
            self._connection.data_received(data)
        else:
            self._connection.connection_lost(None)

    def take(self) -> None:
        """Have the client read what is there."""
        while True:
            try:
                data = self.client.recv(1 << 20)
            except BlockingIOError:
                return
            if not data:
                return
            self.got += data
            if not self.downstream.aborted:
                self.downstream.flush()

    def close(self) -> None:
        self.leg.cancel()
        if self.native is not None:
            self.native.close()
        for end in (self.worker, self.client, self.upstream.end, self.downstream.end):
            end.close()

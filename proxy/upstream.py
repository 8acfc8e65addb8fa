"""Kept-alive connections to one server: made when needed, the last one used is the first to be used again.

A connection carries one leg at a time and hands it whatever arrives; it parses nothing itself. Of many legs
that come at once, so many as `CONNECTING` have connections made for them, and the others wait for theirs or
for one that is given back. A connect that ran out of time while the loop itself was late is tried again: the
server is not to blame for it.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from .cork import Cork, CorkedTransport

Pieces = Sequence[bytes | memoryview]
"""A whole request or body, to be written one after another."""

CONNECTING = 64
"""Connections to one server that are being made at the same time."""
LATE_S = 0.05
"""A loop that is so late with a deadline has kept connections waiting that stood in time."""
TRIES = 4


class Rider(Protocol):
    """What a leg lets its connection tell it."""

    cancelled: bool
    """The leg gave up while its connection was being made."""

    def connected(self, connection: "Connection") -> None:
        """The connection is the leg's until it ends or the leg gives it back."""
        ...

    def unreachable(self, detail: str) -> None:
        """No connection could be made."""
        ...

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        ...

    def connection_lost(self, detail: str) -> None:
        """The connection ended while the leg had it."""
        ...


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A server on the network."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A server on this machine, behind a socket file."""

    path: Path


class Connection:
    """One connection. `rider` is the leg it carries, None while it is idle.

    The loop takes it for an `asyncio.Protocol`; it derives from none so that it can be compiled.
    """

    __slots__ = ("_pool", "rider", "served", "transport")

    transport: CorkedTransport

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.rider: Rider | None = None
        self.served = 0
        """Answers it has carried: after the first, the server may close it at any moment."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = CorkedTransport(cast(asyncio.Transport, transport), self._pool.cork)
        self._pool.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self.rider is not None:
            self.rider.data_received(data)
        else:
            self.transport.abort()  # nobody asked

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._pool.forget(self)
        rider, self.rider = self.rider, None
        if rider is not None:
            rider.connection_lost(str(exc) if exc is not None else "the connection was closed")

    def eof_received(self) -> None:
        """Called by the loop, which then closes the connection."""

    def pause_writing(self) -> None:
        """Called by the loop; a request is written at once, however long it is."""

    def resume_writing(self) -> None:
        """Called by the loop."""

    def send(self, pieces: Pieces) -> None:
        """Write a whole request."""
        for piece in pieces:
            self.transport.write(piece)

    def give_back(self) -> None:
        """The leg's answer is complete and the server keeps the connection open."""
        self.rider = None
        self.served += 1
        self._pool.keep(self)

    def drop(self) -> None:
        """The leg wants no more of it: the server sees the connection end."""
        self.rider = None
        self.transport.abort()


class Pool:
    """The connections to one server. Owned by the event loop's thread."""

    def __init__(
        self,
        address: TcpAddress | UnixAddress,
        tasks: asyncio.TaskGroup,
        cork: Cork,
        *,
        connect_timeout_s: float,
        max_idle: int,
    ) -> None:
        self.address = address
        self.cork = cork
        self.connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._waiting: deque[Rider] = deque()
        self._tasks = tasks
        self._connect_timeout_s = connect_timeout_s
        self._max_idle = max_idle
        self._closed = False
        self.connecting = 0
        """How many connections are being made."""
        self.host_header = _host_header(address)
        """Value of `Host` for requests to it."""

    def acquire(self, rider: Rider, *, fresh: bool = False) -> None:
        """Give `rider` a connection: an idle one now unless `fresh`, else a new one once it stands."""
        while self._idle and not fresh:
            connection, _ = self._idle.popitem()
            if not connection.transport.is_closing():
                connection.rider = rider
                rider.connected(connection)
                return
        if self._closed:
            self._soon(self._tell, rider, "the worker was removed")
        elif self.connecting < CONNECTING or fresh:
            self._connect_for(rider)
        else:
            self._waiting.append(rider)

    def keep(self, connection: Connection) -> None:
        """Take back a connection that may carry another leg."""
        while self._waiting and not connection.transport.is_closing():
            rider = self._waiting.popleft()
            if not rider.cancelled:
                connection.rider = rider
                self._soon(self._hand_over, connection, rider)
                return
        if self._closed or len(self._idle) >= self._max_idle:
            connection.transport.close()
        else:
            self._idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self.connections.discard(connection)
        self._idle.pop(connection, None)

    def close(self) -> None:
        """Drop every connection."""
        self._closed = True
        self._idle.clear()
        while self._waiting:
            self._soon(self._tell, self._waiting.popleft(), "the worker was removed")
        for connection in list(self.connections):
            connection.transport.abort()

    def _connect_for(self, rider: Rider) -> None:
        self.connecting += 1
        self._tasks.create_task(self._connect(rider), name=f"connect to {self.address}")

    def _connected(self) -> None:
        """One is made, or cannot be: go on with those who wait."""
        self.connecting -= 1
        while self._waiting and self.connecting < CONNECTING:
            rider = self._waiting.popleft()
            if not rider.cancelled:
                self._connect_for(rider)

    async def _connect(self, rider: Rider) -> None:
        try:
            connection = await self._patiently()
        except TimeoutError:
            self._soon(self._tell, rider, f"no connection within {self._connect_timeout_s:g} s")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            self._soon(self._tell, rider, reason)
        else:
            self._soon(self._hand_over, connection, rider)
        finally:
            self._connected()

    async def _patiently(self) -> Connection:
        """Return a new connection. Raises `TimeoutError` when the server does not take it in time."""
        loop = asyncio.get_running_loop()
        for _ in range(TRIES):
            limit = asyncio.timeout(self._connect_timeout_s)
            try:
                async with limit:
                    return await self._open()
            except TimeoutError:
                due = limit.when()
                if due is None or loop.time() - due < LATE_S:
                    raise
        raise TimeoutError

    async def _open(self) -> Connection:
        loop, connection = asyncio.get_running_loop(), Connection(self)
        protocol = cast(asyncio.BaseProtocol, connection)
        try:
            match self.address:
                case TcpAddress(host, port):
                    await loop.create_connection(lambda: protocol, host, port)
                case UnixAddress(path):
                    await loop.create_unix_connection(lambda: protocol, str(path))
        except BaseException:
            self.connections.discard(connection)  # it may stand already, and nobody will have it
            raise
        return connection

    @staticmethod
    def _soon(call: Callable[..., None], *arguments: object) -> None:
        """Call outside of the connecting task: a fault of the rider's must not end the task's group."""
        asyncio.get_running_loop().call_soon(call, *arguments)

    def _hand_over(self, connection: Connection, rider: Rider) -> None:
        if rider.cancelled:
            connection.rider = None
            self.keep(connection)
        elif connection.transport.is_closing():
            rider.unreachable("the connection was closed at once")
        else:
            connection.rider = rider
            rider.connected(connection)

    @staticmethod
    def _tell(rider: Rider, detail: str) -> None:
        if not rider.cancelled:
            rider.unreachable(detail)


def _host_header(address: TcpAddress | UnixAddress) -> bytes:
    match address:
        case TcpAddress(host, port):
            return f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()
        case UnixAddress():
            return b"localhost"

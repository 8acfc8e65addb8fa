"""How `baton ranks` speaks to the `baton up` of the same user on the same host: a JSON line each way.

The socket file is named by the proxy's port and lies in a folder that only this user can enter.
"""

import asyncio
import contextlib
import enum
import itertools
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from .fleet_messages import AddRank, Answer, RemoveRank


class FleetControlError(Exception):
    """There is no fleet to speak to, or it has ended."""


class Action(enum.Enum):
    """What can be asked of a fleet."""

    ADD = "add"
    """A rank to the group of a worker."""
    REMOVE = "remove"
    """A worker from its group."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    action: Action
    worker: str


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of it."""

    text: str
    is_done: bool


class FleetControl:
    """The fleet's end."""

    def __init__(self, ask: Callable[[AddRank | RemoveRank], None]) -> None:
        """Hand what is asked to `ask`, which is answered by `answer`."""
        self._ask = ask
        self._calls = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}

    @contextlib.asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        """Listen, as the fleet whose proxy has this port."""
        path = await asyncio.to_thread(socket_path, port)
        await asyncio.to_thread(path.unlink, missing_ok=True)  # of one that was killed: the port is ours now
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(str(path))
        server = await asyncio.start_unix_server(self._serve, sock=bound)
        try:
            yield
        finally:
            server.close()
            await asyncio.to_thread(path.unlink, missing_ok=True)
            for waiting in self._waiting.values():
                waiting.cancel()

    def answer(self, answer: Answer) -> None:
        """Tell whoever asked, if it still waits."""
        waiting = self._waiting.pop(answer.call, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(Reply(text=answer.text, is_done=answer.is_done))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(msgspec.DecodeError, ConnectionError, asyncio.CancelledError):
            request = msgspec.json.decode(await reader.readline(), type=Request)
            call = next(self._calls)
            waiting = self._waiting[call] = asyncio.get_running_loop().create_future()
            if request.action is Action.ADD:
                self._ask(AddRank(call=call, beside=request.worker))
            else:
                self._ask(RemoveRank(call=call, name=request.worker))
            writer.write(msgspec.json.encode(await waiting) + b"\n")
            await writer.drain()
        writer.close()


def ask_fleet(port: int, request: Request) -> Reply:
    """Ask the fleet whose proxy has this port; returns when it is done. Raises `FleetControlError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(socket_path(port)))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
        except OSError as error:
            raise FleetControlError(f"no `baton up` of yours serves on port {port}: {error}") from error
    if not line:
        raise FleetControlError("the fleet has ended")
    return msgspec.json.decode(line, type=Reply)


def socket_path(port: int) -> Path:
    """Return the file of the fleet whose proxy has this port. Raises `FleetControlError`."""
    folder = Path(tempfile.gettempdir()) / f"baton-up-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise FleetControlError(f"{folder} is not a folder that only you can enter")
    return folder / f"{port}.sock"

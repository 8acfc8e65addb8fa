"""The listening side of the KV control channel: one task per connection, answers from the `GrantDesk`."""

import asyncio
import logging
from collections.abc import Callable

from .channel import Channel, ChannelClosedError
from .grant_desk import GrantDesk
from .messages import (
    Describe,
    FrameError,
    GrantRequest,
    Heartbeat,
    Hello,
    Message,
    PeerDescription,
    Refused,
    RenewRequest,
    Request,
    Settle,
    hello_differences,
)

SILENCE_LIMIT_S = 15.0
"""A peer sends heartbeats far more often; one that is silent for so long is gone."""

logger = logging.getLogger(__name__)


class ControlServer:
    """Serves peers until cancelled."""

    def __init__(
        self,
        *,
        hello: Hello,
        describe: Callable[[], PeerDescription],
        desk: GrantDesk,
        on_defect: Callable[[], None],
    ) -> None:
        """`hello` is what we say of ourselves; `on_defect` counts exceptions nobody foresaw."""
        self._hello = hello
        self._describe = describe
        self._desk = desk
        self._on_defect = on_defect

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end, whatever that is."""
        channel = Channel(reader, writer)
        name = channel.peer_name
        try:
            await self._greet(channel)
            await self._answer_requests(channel)
        except ChannelClosedError as error:
            logger.debug("KV peer %s: %s", name, error)
        except (FrameError, TimeoutError) as error:
            logger.warning("KV peer %s: connection closed: %s", name, error or "silent for too long")
        except Exception:
            self._on_defect()
            logger.exception("KV peer %s: connection closed", name)
        finally:
            await channel.close()

    async def _greet(self, channel: Channel) -> None:
        """Exchange hellos; metadata is only given to a peer that may use it."""
        theirs = await _receive(channel)
        if not isinstance(theirs, Hello):
            raise FrameError(f"expected hello, got {type(theirs).__name__}")
        differences = hello_differences(self._hello, theirs)
        if differences:
            channel.send(Refused(differences=differences))
            raise ChannelClosedError("refused: " + "; ".join(differences))
        channel.send(self._hello)

    async def _answer_requests(self, channel: Channel) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    message = await _receive(channel)
                except ChannelClosedError:
                    return
                match message:
                    case GrantRequest(checksums=True):
                        tasks.create_task(self._reply(channel, message), name=f"grant-{message.lease_id}")
                    case GrantRequest() | RenewRequest() | Settle() | Heartbeat():
                        await self._reply(channel, message)
                    case Describe():
                        channel.send(self._describe())
                    case _:
                        raise FrameError(f"expected a request, got {type(message).__name__}")

    async def _reply(self, channel: Channel, request: Request) -> None:
        reply = await self._desk.answer(request)
        try:
            channel.send(reply)
        except ChannelClosedError as error:
            logger.debug("no reply to %s: %s", type(request).__name__, error)


async def _receive(channel: Channel) -> Message:
    async with asyncio.timeout(SILENCE_LIMIT_S):
        return await channel.receive()

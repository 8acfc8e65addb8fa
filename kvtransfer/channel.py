"""One connection of the KV control channel: frames over an asyncio stream. It decides nothing."""

import asyncio
import contextlib
import socket
from collections import deque

from .messages import FrameDecoder, FrameError, Message, encode_frame

READ_BYTES = 64 * 1024
MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""A peer that lets this much pile up is cut off."""


class ChannelClosedError(Exception):
    """The connection ended, from whichever side."""


class Channel:
    """Sends and receives messages; used from one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder()
        self._received: deque[Message] = deque()
        self._bad_frame: FrameError | None = None
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def peer_name(self) -> str:
        """The other side's address, for logs."""
        host, port = self._writer.get_extra_info("peername")[:2]
        return f"{host}:{port}"

    def send(self, message: Message) -> None:
        """Hand a message to the operating system. Raises `ChannelClosedError` if that cannot work."""
        if self._writer.is_closing():
            raise ChannelClosedError("the connection is closed")
        self._writer.write(encode_frame(message))
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._writer.transport.abort()
            raise ChannelClosedError(f"{self.peer_name} does not read")

    async def receive(self) -> Message:
        """Return the next message. Raises `ChannelClosedError` at the end, `FrameError` for what is no
        message.

        May be cancelled at any time; nothing is lost.
        """
        while not self._received:
            if self._bad_frame is not None:
                raise self._bad_frame
            self._decode(await self._read())
        return self._received.popleft()

    async def close(self) -> None:
        """Send what is buffered and close; a connection that is already broken is no error."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Cut the connection now; `receive` ends."""
        self._writer.transport.abort()

    async def _read(self) -> bytes:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        if data:
            return data
        if self._decoder.pending_bytes:
            raise ChannelClosedError(
                f"closed inside a message, after {self._decoder.pending_bytes} bytes of it"
            )
        raise ChannelClosedError("closed by the peer")

    def _decode(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._received.append(message)
        except FrameError as error:  # the messages before it still count
            self._bad_frame = error


async def open_channel(host: str, port: int) -> Channel:
    """Connect. Raises `OSError`."""
    return Channel(*await asyncio.open_connection(host, port))

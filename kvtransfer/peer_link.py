"""One connection to one prefill worker's control channel, seen from the worker that pulls.

Opens, greets, then relays replies to whoever asked. A link has one life: when it ends, every open question is
answered with None, and the next use of the address makes a new link.
"""

import asyncio
import itertools
from collections.abc import Callable

from .channel import Channel, ChannelClosedError, open_channel
from .messages import (
    Denied,
    Describe,
    FrameError,
    Granted,
    Heartbeat,
    HeartbeatReply,
    Hello,
    PeerDescription,
    Refused,
    Reply,
    Request,
    SettleReply,
    hello_differences,
)
from .peers import Address
from .service import PullFailure

SILENT_INTERVALS = 3
"""Unanswered heartbeats after which a peer counts as lost."""

OnReply = Callable[[Reply | None], None]


class LinkError(Exception):
    """A peer cannot be used, and why."""

    def __init__(self, reason: PullFailure, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class PeerLink:
    """See the module's text. Used from the control thread's event loop only."""

    def __init__(self, address: Address, *, hello: Hello, heartbeat_s: float) -> None:
        self.address = address
        self.incarnation = ""
        """Known once greeted."""
        self.open = False
        """True from the end of the handshake to the loss of the connection."""
        self.needs_serving = False
        """The peer has to move its side of the transport while we read: learned from the reads themselves."""
        self.reads = 0
        """Reads in flight that were posted over this link."""
        self.nudge: asyncio.TimerHandle | None = None
        """Armed while reads are in flight, where the transport may need the peer's help."""
        self._ours = hello
        self._heartbeat_s = heartbeat_s
        self._channel: Channel | None = None
        self._call_ids = itertools.count(1)
        self._waiting: dict[int, OnReply] = {}

    async def greet(self) -> None:
        """Connect and exchange hellos. Raises `LinkError`."""
        host, port = self.address
        try:
            self._channel = await open_channel(host, port)
            self._channel.send(self._ours)
            answer = await self._channel.receive()
        except (OSError, ChannelClosedError, FrameError) as error:
            raise LinkError(PullFailure.UNREACHABLE, f"{host}:{port}: {error}") from error
        if isinstance(answer, Refused):
            differences = answer.differences
        elif isinstance(answer, Hello):
            self.incarnation = answer.incarnation
            differences = hello_differences(self._ours, answer)
        else:
            message = f"{host}:{port}: expected hello, got {type(answer).__name__}"
            raise LinkError(PullFailure.INCOMPATIBLE, message)
        if differences:
            raise LinkError(PullFailure.INCOMPATIBLE, f"{host}:{port}: " + "; ".join(differences))

    async def describe(self) -> PeerDescription:
        """Ask a greeted peer for its description. Raises `LinkError`."""
        channel = self._greeted
        host, port = self.address
        try:
            channel.send(Describe(incarnation=self.incarnation))
            answer = await channel.receive()
        except (ChannelClosedError, FrameError) as error:
            raise LinkError(PullFailure.UNREACHABLE, f"{host}:{port}: {error}") from error
        if not isinstance(answer, PeerDescription) or answer.incarnation != self.incarnation:
            raise LinkError(PullFailure.INCOMPATIBLE, f"{host}:{port}: no description of {self.incarnation}")
        return answer

    def call_id(self) -> int:
        """Return a fresh id for a request."""
        return next(self._call_ids)

    def request(self, request: Request, on_reply: OnReply) -> None:
        """Send; `on_reply` gets the reply, or None when the link is lost before."""
        try:
            self._greeted.send(request)
        except ChannelClosedError:
            asyncio.get_running_loop().call_soon(on_reply, None)
            return
        self._waiting[request.call_id] = on_reply

    def ask_serving(self, seconds: float) -> None:
        """Ask the peer to keep its side of the transport moving."""
        self.request(Heartbeat(call_id=self.call_id(), progress_s=seconds), lambda _: None)

    async def relay(self) -> str:
        """Hand replies over until the connection ends; return why it did."""
        silent = 0
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    message = await self._greeted.receive()
            except TimeoutError:
                silent += 1
                if silent > SILENT_INTERVALS:
                    return f"no answer for {silent * self._heartbeat_s:g} s"
                self.ask_serving(0.0)
                continue
            except (ChannelClosedError, FrameError) as error:
                return str(error)
            silent = 0
            match message:
                case Granted() | Denied() | SettleReply() | HeartbeatReply():
                    on_reply = self._waiting.pop(message.call_id, None)
                    if on_reply is not None:
                        on_reply(message)
                case _:
                    return f"expected a reply, got {type(message).__name__}"

    async def close(self) -> None:
        """Answer what is still open with None and close the connection."""
        self.open = False
        waiting, self._waiting = self._waiting, {}
        for on_reply in waiting.values():
            on_reply(None)
        if self._channel is not None:
            await self._channel.close()

    @property
    def _greeted(self) -> Channel:
        assert self._channel is not None, "greet comes first"
        return self._channel

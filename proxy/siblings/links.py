"""Carries events between siblings: one connection each way for every two of them, over unix sockets.

Events go out in batches, `FLUSH_S` after the first of a batch. A connection that is made anew begins with
everything in flight, so nothing is missing after a pause. One that ends takes the sibling's requests with it;
the workers are told to end them only if the sibling does not come back.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import msgspec

from ..routing.commands import Abort
from ..routing.router import Router
from .departures import BACK_WITHIN_S, Departures
from .messages import Event, Hello
from .place import Place
from .publisher import Publisher
from .shadows import Shadows

logger = logging.getLogger(__name__)

FLUSH_S = 0.005
"""How old the news of a sibling may get before it is sent."""
RETRY_S = 0.1
LENGTH_BYTES = 4
MOST_WAITING_BYTES = 16 * 1024 * 1024
"""A sibling that lets so much wait is cut off; it gets everything in flight when it is back."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Event]] = msgspec.msgpack.Decoder(list[Event])


def framed(events: list[Event]) -> bytes:
    """Return one batch as it travels."""
    body = _encoder.encode(events)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class SiblingLinks:
    """One process's connections to its siblings."""

    def __init__(
        self,
        place: Place,
        publisher: Publisher,
        router: Router,
        abort: Callable[[Abort], None],
        new_shadows: Callable[[], Shadows],
    ) -> None:
        self.place = place
        self._publisher = publisher
        self._router = router
        self._abort = abort
        self._new_shadows = new_shadows
        self._outgoing: set[asyncio.Transport] = set()
        self.incoming: dict[int, _Receiver] = {}
        """Siblings that are heard, by their index."""
        self.departures = Departures()
        self.heard = asyncio.Event()
        """Set after every batch and every end of a connection."""
        self._loop = asyncio.get_running_loop()
        publisher.wake = self._wake

    async def run(self) -> None:
        """Listen and stay connected until cancelled."""
        path = self.place.event_socket
        await asyncio.to_thread(path.unlink, missing_ok=True)
        server = await self._loop.create_unix_server(lambda: _Receiver(self), str(path))
        async with server, asyncio.TaskGroup() as tasks:
            for other in self.place.others:
                tasks.create_task(self._stay_connected(other), name=f"events to process {other.index}")

    def close(self) -> None:
        """Say nothing more."""
        for transport in (*self._outgoing, *(each.transport for each in self.incoming.values())):
            transport.abort()

    # --- out

    async def _stay_connected(self, other: Place) -> None:
        while True:
            try:
                _, sender = await self._loop.create_unix_connection(_Sender, str(other.event_socket))
            except OSError:
                await asyncio.sleep(RETRY_S)  # it is not up yet, or not any more
                continue
            self.flush()
            sender.transport.write(
                framed([Hello(self.place.index, self.place.run), *self._publisher.snapshot()])
            )
            self._outgoing.add(sender.transport)
            await sender.ended.wait()
            self._outgoing.discard(sender.transport)

    def flush(self) -> None:
        """Send what waits."""
        events = self._publisher.take()
        if not events or not self._outgoing:
            return
        batch = framed(events)
        for transport in list(self._outgoing):
            if transport.get_write_buffer_size() > MOST_WAITING_BYTES:
                transport.abort()
            else:
                transport.write(batch)

    def _wake(self) -> None:
        self._loop.call_later(FLUSH_S, self.flush)

    # --- in

    def begin(self, receiver: "_Receiver", hello: Hello) -> Shadows:
        """A sibling is heard."""
        before = self.incoming.get(hello.index)
        if before is not None:
            before.transport.abort()
            self._depart(before)
        self._end(self.departures.heard(hello.index, hello.run))
        self.incoming[hello.index] = receiver
        return self._new_shadows()

    def lost(self, receiver: "_Receiver") -> None:
        """A sibling is not heard any more; if it stays away, the next of its siblings ends what it had."""
        if self.incoming.get(receiver.hello.index) is not receiver:
            return
        del self.incoming[receiver.hello.index]
        self._depart(receiver)
        self._loop.call_later(BACK_WITHIN_S, self._end_overdue)
        self.heard.set()

    def end_departed(self) -> None:
        """End at once what siblings had that are away: this process ends before they are overdue."""
        self._end(self.departures.overdue(float("inf")))

    def _depart(self, receiver: "_Receiver") -> None:
        now, hello = self._loop.time(), receiver.hello
        aborts = receiver.shadows.drop(now)
        if hello.index == self.place.stands_in_for:
            self.departures.left(hello.index, hello.run, aborts, now)

    def _end_overdue(self) -> None:
        self._end(self.departures.overdue(self._loop.time()))

    def _end(self, aborts: list[Abort]) -> None:
        if not aborts:
            return
        logger.warning(
            "process %d is gone: ending %d legs that it had", self.place.stands_in_for, len(aborts)
        )
        for abort in aborts:
            self._router.ids.adopt(abort.wire_id)
            self._abort(abort)
        self._router.counts.orphans += len({abort.wire_id for abort in aborts})


class _Sender(asyncio.Protocol):
    """One connection to a sibling; nothing comes back on it."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


class _Receiver(asyncio.Protocol):
    """One connection from a sibling."""

    transport: asyncio.Transport
    hello: Hello
    shadows: Shadows

    def __init__(self, links: SiblingLinks) -> None:
        self._links = links
        self._greeted = False
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        waiting, start = self._waiting + data, 0
        while len(waiting) - start >= LENGTH_BYTES:
            body = start + LENGTH_BYTES
            end = body + int.from_bytes(waiting[start:body], "big")
            if end > len(waiting):
                break
            self._take(_decoder.decode(memoryview(waiting)[body:end]))
            start = end
        self._waiting = waiting[start:]
        self._links.heard.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._greeted:
            self._links.lost(self)

    def _take(self, events: list[Event]) -> None:
        if not self._greeted:
            hello = events[0]
            assert isinstance(hello, Hello), hello
            self._greeted, self.hello = True, hello
            self.shadows = self._links.begin(self, hello)
        for event in events:
            self.shadows.apply(event)

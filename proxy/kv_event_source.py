"""Reads workers' KV events (vLLM's schema, over ZMQ) and tells `routing/cache_events.py` what they say.

A thin shell: it owns the sockets, on the proxy's event loop and without tasks. Order, gaps and replays are
`routing/event_sequence.py`'s to judge. Frames, on both sockets:

    SUB     [topic, number (8 bytes, big-endian), payload]
    DEALER  sends ["", first number], gets ["", topic, number, payload]..., then ["", "", ff x 8, ""]

ZMQ is an optional dependency and is imported when the first worker is followed.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

import msgspec

from .routing.cache_events import CacheReport, Cleared, Removed, Stored
from .routing.event_sequence import Apply, AskReplay, EventSequence, Lost

logger = logging.getLogger(__name__)

END_OF_REPLAY = b"\xff" * 8
REPLAY_TIMEOUT_S = 5.0
_BURST = 256
"""Messages taken in one turn of the loop."""
_MOST_QUEUED = 10_000
"""Messages that ZMQ keeps for us; more are dropped, which shows as a gap."""
_MEDIA = (None, "GPU")
_NOBLOCK = 1
"""`zmq.NOBLOCK`."""


class KvEventsUnavailableError(RuntimeError):
    """KV events are configured and cannot be read."""


class KvEventAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a worker publishes its KV events."""

    endpoint: str
    """ZMQ endpoint of its PUB socket, e.g. `tcp://worker-3:5557`."""
    replay_endpoint: str | None = None
    """ZMQ endpoint of its ROUTER socket; absent: a gap makes the index forget the worker."""
    topic: str = ""
    """Topics that start so are read."""

    def __post_init__(self) -> None:
        for name, value in (("endpoint", self.endpoint), ("replay_endpoint", self.replay_endpoint)):
            if value is not None and not value.startswith(("tcp://", "ipc://", "inproc://")):
                raise ValueError(f"{name} must start with tcp:// or ipc://, got {value!r}")
            if value is not None and "*" in value:
                raise ValueError(f"{name} must name a host to connect to, got {value!r}")


# As in `kvtransfer/events.py`, but for the tokens, which are most of the bytes and which nobody here reads.
class _Stored(msgspec.Struct, frozen=True, kw_only=True, tag="BlockStored"):
    block_hashes: list[int | bytes]
    medium: str | None = None
    kv_cache_spec_sliding_window: int | None = None


class _Removed(msgspec.Struct, frozen=True, kw_only=True, tag="BlockRemoved"):
    block_hashes: list[int | bytes]
    medium: str | None = None


class _Cleared(msgspec.Struct, frozen=True, kw_only=True, tag="AllBlocksCleared"):
    pass


class _Batch(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    ts: float
    events: list[_Stored | _Removed | _Cleared]


_decoder = msgspec.msgpack.Decoder(_Batch)


def read_report(payload: bytes) -> CacheReport:
    """Return what a payload says. Raises `msgspec.DecodeError`."""
    batch = _decoder.decode(payload)
    changes: list[Stored | Removed | Cleared] = []
    for event in batch.events:
        match event:
            case _Stored(medium=medium, kv_cache_spec_sliding_window=None) if medium in _MEDIA:
                changes.append(Stored(_numbers(event.block_hashes)))
            case _Removed(medium=medium) if medium in _MEDIA:
                changes.append(Removed(_numbers(event.block_hashes)))
            case _Cleared():
                changes.append(Cleared())
            case _:
                pass  # another memory, or blocks that leave by their place in the window
    return CacheReport(ts=batch.ts, changes=changes)


def _numbers(hashes: list[int | bytes]) -> list[int]:
    return [each if isinstance(each, int) else int.from_bytes(each[-8:], "big") for each in hashes]


class CacheListener(Protocol):
    """Whom the reports are for, as `CacheEvents` or `CacheUse`."""

    def follow(self, worker: str) -> None:
        """Reports of `worker` are being read."""
        ...

    def unfollow(self, worker: str) -> None:
        """They are not any more."""
        ...

    def report(self, worker: str, report: CacheReport, now: float) -> None:
        """What `worker` reports."""
        ...

    def lost(self, worker: str) -> None:
        """Reports of `worker` are missing."""
        ...


class _Socket(Protocol):
    """The part of a ZMQ socket that is used here."""

    def connect(self, addr: str) -> object: ...
    def set_hwm(self, value: int) -> None: ...
    def fileno(self) -> int: ...
    def recv_multipart(self, flags: int = ...) -> list[bytes]: ...
    def send_multipart(self, msg_parts: list[bytes], flags: int = ...) -> object: ...
    def close(self, linger: int | None = ...) -> None: ...


@dataclass(slots=True)
class KvEventCounts:
    """What happened since the start."""

    messages: int = 0
    replays: int = 0
    malformed: int = 0


class _Wire:
    """One ZMQ socket on the event loop: hands every message to `take`."""

    def __init__(self, opened: _Socket, descriptor: int, again: type[Exception]) -> None:
        self._socket = opened
        self._descriptor = descriptor
        self._again = again
        self._loop = asyncio.get_running_loop()
        self._take: Callable[[list[bytes]], None] | None = None

    def start(self, take: Callable[[list[bytes]], None]) -> None:
        self._take = take
        self._loop.add_reader(self._descriptor, self._readable)
        self._loop.call_soon(self._readable)

    def send(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames)
        self._loop.call_soon(self._readable)

    def close(self) -> None:
        if self._take is not None:
            self._take = None
            self._loop.remove_reader(self._descriptor)
            self._socket.close(linger=0)

    def _readable(self) -> None:
        # ZMQ's descriptor tells of changes only: read until there is nothing, or come back unasked.
        for _ in range(_BURST):
            if self._take is None:
                return
            try:
                frames = self._socket.recv_multipart(_NOBLOCK)
            except self._again:
                return
            self._take(frames)
        self._loop.call_soon(self._readable)


class _Subscription:
    """One worker's messages, in order."""

    def __init__(self, source: "KvEventSource", worker: str, address: KvEventAddress) -> None:
        self._source = source
        self._worker = worker
        self._address = address
        self._sequence: EventSequence[bytes] = EventSequence(can_replay=address.replay_endpoint is not None)
        self._replay: _Wire | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._published = source.subscribed(address)
        self._published.start(self._received)

    def close(self) -> None:
        self._published.close()
        self._end_replay()

    def _received(self, frames: list[bytes]) -> None:
        self._source.counts.messages += 1
        if len(frames) != 3 or len(frames[1]) != 8:
            self._source.counts.malformed += 1
            return
        self._follow(self._sequence.received(int.from_bytes(frames[1], "big"), frames[2]))
        if not self._sequence.replaying:
            self._end_replay()  # the publisher started over, or too much came meanwhile

    def _replayed(self, frames: list[bytes]) -> None:
        if len(frames) != 4 or frames[2] == END_OF_REPLAY:
            self._replay_over()
            return
        self._follow(self._sequence.replayed(int.from_bytes(frames[2], "big"), frames[3]))

    def _replay_over(self) -> None:
        self._end_replay()
        self._follow(self._sequence.replay_ended())

    def _follow(self, commands: list[Apply[bytes] | AskReplay | Lost]) -> None:
        for command in commands:
            match command:
                case Apply(payload):
                    self._apply(payload)
                case AskReplay(first):
                    self._ask(first)
                case Lost():
                    logger.info("KV events of %s are missing: what it holds is learned anew", self._worker)
                    self._source.events.lost(self._worker)
                case _:
                    assert_never(command)

    def _apply(self, payload: bytes) -> None:
        try:
            report = read_report(payload)
        except msgspec.DecodeError as error:
            if not self._source.counts.malformed:
                logger.warning("a KV event of %s cannot be read: %s", self._worker, error)
            self._source.counts.malformed += 1
            self._source.events.lost(self._worker)
            return
        self._source.events.report(self._worker, report, asyncio.get_running_loop().time())

    def _ask(self, first: int) -> None:
        self._source.counts.replays += 1
        self._replay = self._source.replayer(self._address)
        self._replay.start(self._replayed)
        self._replay.send([b"", first.to_bytes(8, "big")])
        self._timeout = asyncio.get_running_loop().call_later(REPLAY_TIMEOUT_S, self._replay_over)

    def _end_replay(self) -> None:
        if self._replay is not None:
            self._replay.close()
            self._replay = None
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None


class KvEventSource:
    """The workers whose KV events are read. Used on the event loop's thread alone."""

    def __init__(self, events: CacheListener) -> None:
        """Raises `KvEventsUnavailableError` where ZMQ is not installed."""
        try:
            import zmq  # noqa: PLC0415  not in the base install
        except ImportError as error:
            raise KvEventsUnavailableError(
                "reading KV events needs pyzmq, which is not installed: pip install pyzmq, "
                "or remove kv_events from the workers"
            ) from error
        self._zmq = zmq
        self._context = zmq.Context()
        self._subscriptions: dict[str, _Subscription] = {}
        self.events = events
        self.counts = KvEventCounts()

    def follow(self, worker: str, address: KvEventAddress) -> None:
        """Read the events of `worker` until `unfollow`.

        Raises `KvEventsUnavailableError` for an endpoint that ZMQ does not take.
        """
        self.unfollow(worker)
        self._subscriptions[worker] = _Subscription(self, worker, address)
        self.events.follow(worker)

    def unfollow(self, worker: str) -> None:
        """Stop reading."""
        subscription = self._subscriptions.pop(worker, None)
        if subscription is not None:
            subscription.close()
            self.events.unfollow(worker)

    def close(self) -> None:
        """Stop reading altogether."""
        for worker in list(self._subscriptions):
            self.unfollow(worker)
        self._context.destroy(linger=0)

    def subscribed(self, address: KvEventAddress) -> _Wire:
        """Return a SUB socket that is connected, or will be when the worker is up."""
        opened = self._context.socket(self._zmq.SUB)
        opened.setsockopt_string(self._zmq.SUBSCRIBE, address.topic)
        return self._connected(opened, address.endpoint)

    def replayer(self, address: KvEventAddress) -> _Wire:
        """Return a DEALER socket to ask for a replay."""
        assert address.replay_endpoint is not None, "nowhere to ask"
        return self._connected(self._context.socket(self._zmq.DEALER), address.replay_endpoint)

    def _connected(self, opened: _Socket, endpoint: str) -> _Wire:
        opened.set_hwm(_MOST_QUEUED)
        try:
            opened.connect(endpoint)
        except self._zmq.ZMQError as error:
            opened.close(linger=0)
            raise KvEventsUnavailableError(f"KV events: cannot connect to {endpoint}: {error}") from error
        return _Wire(opened, opened.fileno(), self._zmq.Again)

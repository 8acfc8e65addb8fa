"""A worker's transfer service: control channel, leases, pulls and one transport, behind `TransferService`.

    service = ControlledTransferService(
        settings=ServiceSettings(transport="nixl"), layout=layout, region=region
    )
    service.start(on_event)          # registers the pool, opens the control channel
    host, port = service.address
    ...
    service.close()

Two threads: `kv-control` runs an event loop with the control channel, the lease timers and the pulls;
`kv-transfer` owns the transport. `on_event` is called from the control thread and must only hand the event
over. Both of a worker's roles are here: it grants reads of its own pool, and pulls from others.
"""

import asyncio
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import uvloop

from .checksum import BlockChecksums
from .control_plane import ControlPlane, ServiceSettings
from .layout import KvLayout
from .messages import PROTOCOL_VERSION, Hello, PeerDescription
from .metrics import TransferMetrics, TransferTally
from .open_work import OpenWork
from .service import Offer, PoolRegion, Pull, TransferCounts, TransferEvent
from .transfer_thread import TransferThread
from .transports import transport_factory

__all__ = ["ControlledTransferService", "ServiceSettings"]

logger = logging.getLogger(__name__)


class ControlledTransferService:
    """Implements `service.TransferService`."""

    def __init__(self, *, settings: ServiceSettings, layout: KvLayout, region: PoolRegion) -> None:
        """Raises `ValueError` for settings, a layout and a region that do not fit each other."""
        if layout.block_bytes != region.block_bytes:
            raise ValueError(f"region.block_bytes: {region.block_bytes}, the layout has {layout.block_bytes}")
        self._settings = settings
        self._region = region
        self._checksums = BlockChecksums(region) if region.memory == "DRAM" else None
        if settings.verify and self._checksums is None:
            raise ValueError(f"verify: checksums need a pool in DRAM, this one is in {region.memory}")
        self._incarnation = uuid.uuid4().hex
        self._hello = Hello(
            protocol=PROTOCOL_VERSION,
            incarnation=self._incarnation,
            transport=settings.transport,
            layout=layout,
        )
        factory = transport_factory(settings.transport, host=settings.host)
        self._transfers = TransferThread(factory, self._incarnation)
        self._tally = TransferTally()
        self._work = OpenWork()
        self._address: tuple[str, int] | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._plane: ControlPlane

    @property
    def incarnation(self) -> str:
        """Fresh id of this process; names the agent and stands in every message."""
        return self._incarnation

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the control channel, known once started."""
        assert self._address is not None, "start comes first"
        return self._address

    def start(self, on_event: Callable[[TransferEvent], None]) -> None:
        """Register the pool and open the control channel.

        Raises `TransportError` if the transport cannot run here, `OSError` if the port cannot be had.
        """
        listener = listen(self._settings.host, self._settings.port)
        self._address = (self._settings.host, listener.getsockname()[1])
        try:
            self._transfers.start()
            self._transfers.call(lambda transport: transport.register(self._region)).result()
            metadata = self._transfers.call(lambda transport: transport.describe()).result()
            self._start_control(metadata, listener, on_event)
        except BaseException:
            listener.close()
            self._transfers.close(0.0)
            raise

    def close(self) -> None:
        """Stop serving; pulls, and peers that read us, are waited for within the grace."""
        if self._thread is None:
            return
        self._post(self._plane.close)
        self._thread.join()
        self._thread = None

    def offer(self, offer: Offer) -> None:
        """Hold the blocks under a lease; its time starts now. Raises `ValueError` for a lease id in use."""
        if offer.consumers < 1:
            raise ValueError(f"consumers: expected at least 1, got {offer.consumers}")
        self._check_block_ids("block_ids", offer.block_ids)
        self._work.open_lease(offer.lease_id)
        now = time.monotonic()
        self._post(lambda: self._plane.offer(offer, now))

    def release(self, lease_id: str) -> None:
        """End a lease early; an unknown or ended lease is no error."""
        self._post(lambda: self._plane.release(lease_id))

    def pull(self, pull: Pull) -> None:
        """Start a pull; exactly one `PullFinished` or `PullFailed` follows.

        Raises `ValueError` for a pull id in use, unequal counts, or local blocks that are not in the pool.
        """
        if len(pull.local_block_ids) != len(pull.remote_block_ids):
            counts = f"{len(pull.remote_block_ids)} remote, {len(pull.local_block_ids)} local"
            raise ValueError(f"local_block_ids: expected as many as remote ones, got {counts}")
        self._check_block_ids("local_block_ids", pull.local_block_ids)
        self._work.open_pull(pull.pull_id)
        self._post(lambda: self._plane.pull(pull))

    def cancel_pull(self, pull_id: str) -> None:
        """Give a pull up: `PullFailed` follows unless it already ended."""
        self._post(lambda: self._plane.cancel_pull(pull_id))

    def connect(self, call_id: str, host: str, port: int) -> None:
        """Shake hands with a peer's control channel; `PeerConnected` or `PeerRefused` follows."""
        self._post(lambda: self._plane.connect(call_id, host, port))

    def peers(self) -> list[str]:
        """Incarnations whose handshake is done and whose liveness holds."""
        return list(self._plane.connected)

    def counts(self) -> TransferCounts:
        """Sizes of the tables, for the self-check and metrics."""
        return self._work.counts()

    def metrics(self) -> TransferMetrics:
        """Counters since the start."""
        return self._tally.snapshot()

    def _start_control(
        self, metadata: bytes, listener: socket.socket, on_event: Callable[[TransferEvent], None]
    ) -> None:
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(metadata, listener, on_event, ready), name="kv-control", daemon=True
        )
        self._thread.start()
        ready.result()

    def _check_block_ids(self, name: str, block_ids: tuple[int, ...]) -> None:
        if block_ids and not 0 <= min(block_ids) <= max(block_ids) < self._region.num_blocks:
            span = f"{min(block_ids)}..{max(block_ids)}"
            raise ValueError(f"{name}: {span} of a pool of {self._region.num_blocks} blocks")

    def _post(self, function: Callable[[], None]) -> None:
        """Run a function on the control thread's event loop."""
        self._loop.call_soon_threadsafe(function)

    def _run(
        self,
        metadata: bytes,
        listener: socket.socket,
        on_event: Callable[[TransferEvent], None],
        ready: "Future[None]",
    ) -> None:
        """Be the control thread."""
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve(metadata, listener, on_event, ready))
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
                return
            self._tally.count("internal_errors")
            logger.exception("the KV control thread ended")

    async def _serve(
        self,
        metadata: bytes,
        listener: socket.socket,
        on_event: Callable[[TransferEvent], None],
        ready: "Future[None]",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_loop_error)
        self._plane = ControlPlane(
            settings=self._settings,
            hello=self._hello,
            description=PeerDescription(
                incarnation=self._incarnation, metadata=metadata, region=self._region
            ),
            checksums=self._checksums,
            transfers=self._transfers,
            tally=self._tally,
            work=self._work,
            on_event=on_event,
        )
        await self._plane.run(listener, lambda: ready.set_result(None))

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._tally.count("internal_errors")
        logger.error("KV control loop: %s", context["message"], exc_info=context.get("exception"))


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)

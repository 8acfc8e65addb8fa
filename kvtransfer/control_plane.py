"""Everything of a transfer service that lives on the control thread's event loop, put together.

One task group owns every task: the connections peers opened to us, the links we opened to them, and checks of
pulled blocks. `transfer_service.py` runs it in a thread and talks to it through the loop.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

import msgspec

from .checksum import BlockChecksums
from .control_server import ControlServer
from .grant_desk import GrantDesk
from .messages import Hello, PeerDescription
from .metrics import TransferTally
from .open_work import OpenWork
from .peer_link import LinkError, PeerLink
from .peer_links import PeerLinks
from .pull import PullLimits
from .puller import Puller
from .service import Offer, PeerConnected, PeerRefused, Pull, TransferEvent
from .transfer_thread import TransferThread

logger = logging.getLogger(__name__)


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a transfer service behaves; durations in seconds."""

    transport: str = "nixl"
    """`nixl`, `ucxx` or `socket`; both sides of a hand-over use the same."""
    host: str = "127.0.0.1"
    port: int = 0
    """Of the control channel; 0: a free one."""
    lease_ttl_s: float = 30.0
    lease_margin_s: float = 1.0
    """Pulled bytes count only if they were there this long before the lease could end."""
    pull_timeout_s: float = 20.0
    verify: bool = False
    """Compare a CRC-32 of every pulled block with the peer's; needs pools in host memory on both sides."""
    connect_timeout_s: float = 10.0
    """For a whole handshake, warm-up read included."""
    heartbeat_s: float = 2.0
    """A peer that leaves four of them unanswered is lost."""
    close_grace_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.lease_margin_s < self.lease_ttl_s:
            raise ValueError(
                f"lease_margin_s: {self.lease_margin_s} is not within 0 and lease_ttl_s {self.lease_ttl_s}"
            )


class ControlPlane:
    """Made and used on the event loop; `run` is its life."""

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        hello: Hello,
        description: PeerDescription,
        checksums: BlockChecksums | None,
        transfers: TransferThread,
        tally: TransferTally,
        work: OpenWork,
        on_event: Callable[[TransferEvent], None],
    ) -> None:
        """`checksums` is None for a pool that the CPU cannot read."""
        self._settings = settings
        self._hello = hello
        self._description = description
        self._checksums = checksums
        self._transfers = transfers
        self._tally = tally
        self._work = work
        self._on_event = on_event
        self._closing = asyncio.Event()
        self._progressed = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._desk = self._make_desk()
        self._links: PeerLinks
        self._puller: Puller

    @property
    def connected(self) -> tuple[str, ...]:
        """Incarnations that may be read; any thread may look."""
        return self._links.connected

    async def run(self, listener: socket.socket, on_ready: Callable[[], None]) -> None:
        """Serve peers that connect to `listener` until `close`; `on_ready` is called once it does."""
        settings = self._settings
        async with asyncio.TaskGroup() as tasks:
            self._links = self._make_links(tasks)
            self._puller = self._make_puller(tasks)
            server = await self._listen(tasks, listener)
            on_ready()
            await self._closing.wait()
            server.close()
            await self._drain()
            await asyncio.to_thread(self._transfers.close, settings.close_grace_s)
            self._puller.close()
            self._desk.close()
            self._links.close()
            for task in self._connections:
                task.cancel()

    def close(self) -> None:
        """Stop serving; pulls, and peers that read us, are waited for within the grace."""
        self._closing.set()

    def offer(self, offer: Offer, offered_at: float) -> None:
        """See `TransferService.offer`."""
        self._desk.offer(offer, offered_at)

    def release(self, lease_id: str) -> None:
        """See `TransferService.release`."""
        self._desk.release(lease_id)

    def pull(self, pull: Pull) -> None:
        """See `TransferService.pull`."""
        self._puller.start(pull)

    def cancel_pull(self, pull_id: str) -> None:
        """See `TransferService.cancel_pull`."""
        self._puller.cancel(pull_id)

    def connect(self, call_id: str, host: str, port: int) -> None:
        """See `TransferService.connect`."""

        def answer(link: PeerLink | LinkError) -> None:
            if isinstance(link, LinkError):
                self._on_event(PeerRefused(call_id=call_id, message=link.message))
            else:
                self._on_event(PeerConnected(call_id=call_id, incarnation=link.incarnation))

        self._links.ensure((host, port), answer)

    def on_defect(self) -> None:
        """Count an exception that nobody foresaw; it is in the log."""
        self._tally.count("internal_errors")

    async def _listen(self, tasks: asyncio.TaskGroup, listener: socket.socket) -> asyncio.Server:
        server = ControlServer(
            hello=self._hello,
            describe=lambda: self._description,
            desk=self._desk,
            on_defect=self.on_defect,
        )

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = tasks.create_task(server.serve(reader, writer), name="kv-connection")
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return await asyncio.start_server(serve, sock=listener)

    async def _drain(self) -> None:
        """Wait until no pull is open and nobody reads us, or the grace is over."""
        try:
            async with asyncio.timeout(self._settings.close_grace_s):
                while len(self._puller) or self._desk.leases.readers:
                    self._progressed.clear()
                    await self._progressed.wait()
        except TimeoutError:
            counts = len(self._puller), self._desk.leases.readers
            logger.warning("closing with %d pulls open and %d peers reading", *counts)

    def _report(self, event: TransferEvent) -> None:
        self._work.on_event(event)
        self._on_event(event)
        self._progressed.set()

    def _on_pull_settled(self, pull_id: str) -> None:
        self._work.pull_settled(pull_id)
        self._progressed.set()

    def _make_desk(self) -> GrantDesk:
        return GrantDesk(
            incarnation=self._hello.incarnation,
            ttl_s=self._settings.lease_ttl_s,
            checksums=self._checksums,
            serve=self._transfers.serve,
            report=self._report,
            tally=self._tally,
        )

    def _make_links(self, tasks: asyncio.TaskGroup) -> PeerLinks:
        return PeerLinks(
            hello=self._hello,
            transfers=self._transfers,
            tasks=tasks,
            connect_timeout_s=self._settings.connect_timeout_s,
            heartbeat_s=self._settings.heartbeat_s,
            on_lost=self._on_link_lost,
            on_defect=self.on_defect,
        )

    def _on_link_lost(self, link: PeerLink) -> None:
        self._puller.on_link_lost(link)

    def _make_puller(self, tasks: asyncio.TaskGroup) -> Puller:
        settings = self._settings
        return Puller(
            incarnation=self._hello.incarnation,
            links=self._links,
            limits=PullLimits(
                timeout_s=settings.pull_timeout_s,
                margin_s=settings.lease_margin_s,
                settle_for_s=settings.lease_ttl_s,
            ),
            block_bytes=self._description.region.block_bytes,
            checksums=self._checksums if settings.verify else None,
            tasks=tasks,
            report=self._report,
            on_settled=self._on_pull_settled,
            tally=self._tally,
        )

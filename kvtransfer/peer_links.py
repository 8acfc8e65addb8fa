"""The links to all peers this process pulls from: opened on demand, kept as `PeerTable` decides.

Opening a link ends with a warm-up: the null block is read into our null block, so that connecting the data
path (30 to 200 ms) is paid before the first request. Runs on the control thread's event loop.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from .messages import Hello, PeerDescription
from .peer_link import LinkError, PeerLink
from .peers import AddAgent, Address, Command, PeerTable, RemoveAgent, StalePeerError, WarmUp
from .service import PullFailure
from .transfer_thread import TransferThread
from .transports.base import ReadOutcome, TransportError

NULL_BLOCK = 0
SERVE_S = 1.0
"""How long one request asks a peer to keep its side of the transport moving."""
FIRST_NUDGE_S = 0.005
"""A read that takes longer may be waiting for the passive side."""
NEXT_NUDGE_S = 0.5

OnLink = Callable[[PeerLink | LinkError], None]
logger = logging.getLogger(__name__)


class PeerLinks:
    """See the module's text."""

    def __init__(
        self,
        *,
        hello: Hello,
        transfers: TransferThread,
        tasks: asyncio.TaskGroup,
        connect_timeout_s: float,
        heartbeat_s: float,
        on_lost: Callable[[PeerLink], None],
        on_defect: Callable[[], None],
    ) -> None:
        """`tasks` owns the links' tasks; `on_lost` hears of links that were open."""
        self.table = PeerTable()
        self._hello = hello
        self._transfers = transfers
        self._tasks = tasks
        self._connect_timeout_s = connect_timeout_s
        self._heartbeat_s = heartbeat_s
        self._on_lost = on_lost
        self._on_defect = on_defect
        self._links: dict[Address, PeerLink] = {}
        self._running: dict[PeerLink, asyncio.Task[None]] = {}
        self._waiting: dict[PeerLink, list[OnLink]] = {}
        self._greeted: set[PeerLink] = set()
        self.connected: tuple[str, ...] = ()
        """Incarnations that may be read; replaced as a whole, so that any thread may look."""

    def find(self, address: Address) -> PeerLink | None:
        """Return the open link to an address, if there is one."""
        link = self._links.get(address)
        return link if link is not None and link.open else None

    def ensure(self, address: Address, on_link: OnLink) -> None:
        """Call `on_link` with an open link, at once if there is one, or with why there is none."""
        link = self._links.get(address)
        if link is not None and link.open:
            on_link(link)
            return
        if link is None:
            link = PeerLink(address, hello=self._hello, heartbeat_s=self._heartbeat_s)
            self._links[address] = link
            self._waiting[link] = []
            name = f"kv-link-{address[0]}:{address[1]}"
            self._running[link] = self._tasks.create_task(self._run(link), name=name)
        self._waiting[link].append(on_link)

    def read(
        self,
        link: PeerLink,
        remote_block_ids: Sequence[int],
        local_block_ids: Sequence[int],
        on_done: Callable[[ReadOutcome], None],
    ) -> None:
        """Read blocks of the link's peer; `on_done` runs on the event loop when the read is terminal."""
        loop = asyncio.get_running_loop()
        self.table.read_began(link.incarnation)
        link.reads += 1

        def terminal(outcome: ReadOutcome) -> None:
            loop.call_soon_threadsafe(self._read_ended, link, on_done, outcome)

        self._transfers.read(link.incarnation, remote_block_ids, local_block_ids, terminal)
        if self._transfers.needs_polling and link.nudge is None:
            delay_s = NEXT_NUDGE_S if link.needs_serving else FIRST_NUDGE_S
            link.nudge = loop.call_later(delay_s, self._nudge, link)

    def close(self) -> None:
        """Cancel every link's task."""
        for task in self._running.values():
            task.cancel()

    async def _run(self, link: PeerLink) -> None:
        """Open a link, relay while it lives, and clean up after it."""
        try:
            await self._open(link)
            logger.info("KV peer %s:%d: connected to incarnation %s", *link.address, link.incarnation)
            reason = await link.relay()
            logger.warning("KV peer %s:%d: lost: %s", *link.address, reason)
        except LinkError as error:
            self._answer(link, error)
        except Exception as error:
            self._on_defect()
            logger.exception("KV peer %s:%d", *link.address)
            self._answer(link, LinkError(PullFailure.UNREACHABLE, f"{type(error).__name__}: {error}"))
        finally:
            await self._end(link)

    async def _open(self, link: PeerLink) -> None:
        host, port = link.address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await link.greet()
                self._perform(self.table.greet(link.incarnation, link.address))
                self._greeted.add(link)
                await self._prepare(link, await link.describe())
        except TimeoutError as error:
            message = f"{host}:{port}: no handshake within {self._connect_timeout_s:g} s"
            raise LinkError(PullFailure.UNREACHABLE, message) from error
        except StalePeerError as error:
            raise LinkError(PullFailure.STALE_INCARNATION, f"{host}:{port}: {error}") from error
        self.table.warmed(link.incarnation)
        link.open = True
        self.connected = tuple(self.table.connected())
        self._answer(link, link)

    async def _prepare(self, link: PeerLink, description: PeerDescription) -> None:
        for command in self.table.described(link.incarnation, link.address):
            try:
                match command:
                    case AddAgent():
                        await self._add_agent(link, description)
                    case WarmUp():
                        await self._warm_up(link)
            except TransportError as error:
                host, port = link.address
                raise LinkError(PullFailure.INCOMPATIBLE, f"{host}:{port}: {error}") from error

    async def _add_agent(self, link: PeerLink, description: PeerDescription) -> None:
        added = self._transfers.call(
            lambda transport: transport.add_peer(link.incarnation, description.metadata, description.region)
        )
        await asyncio.wrap_future(added)

    def _remove_agent(self, incarnation: str) -> None:
        self._transfers.call(lambda transport: transport.remove_peer(incarnation))

    async def _warm_up(self, link: PeerLink) -> None:
        done: asyncio.Future[ReadOutcome] = asyncio.get_running_loop().create_future()
        link.needs_serving = True
        link.ask_serving(SERVE_S)
        self.read(link, [NULL_BLOCK], [NULL_BLOCK], lambda outcome: _resolve(done, outcome))
        outcome = await done
        if outcome.error is not None:
            raise TransportError(f"the warm-up read failed: {outcome.error}")
        link.needs_serving = False

    async def _end(self, link: PeerLink) -> None:
        was_open = link.open
        link.open = False
        if self._links.get(link.address) is link:
            del self._links[link.address]
        self._running.pop(link, None)
        self._answer(link, LinkError(PullFailure.UNREACHABLE, "the transfer service is closing"))
        if link in self._greeted:
            self._greeted.remove(link)
            self._perform(self.table.lost(link.incarnation))
            self.connected = tuple(self.table.connected())
        if was_open:
            self._on_lost(link)
        await link.close()

    def _answer(self, link: PeerLink, answer: PeerLink | LinkError) -> None:
        for on_link in self._waiting.pop(link, []):
            on_link(answer)

    def _read_ended(
        self, link: PeerLink, on_done: Callable[[ReadOutcome], None], outcome: ReadOutcome
    ) -> None:
        link.reads -= 1
        if link.nudge is not None and not link.reads:
            link.nudge.cancel()
            link.nudge = None
        if outcome.error is None and outcome.done_at_post:
            link.needs_serving = False
        on_done(outcome)
        self._perform(self.table.read_ended(link.incarnation))

    def _nudge(self, link: PeerLink) -> None:
        """A read is still in flight: the peer may have to be moved for it."""
        link.needs_serving = True
        link.ask_serving(SERVE_S)
        link.nudge = asyncio.get_running_loop().call_later(NEXT_NUDGE_S, self._nudge, link)

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case RemoveAgent(incarnation):
                    self._remove_agent(incarnation)
                case _:
                    raise AssertionError(f"{command} belongs to the handshake")


def _resolve(future: "asyncio.Future[ReadOutcome]", outcome: ReadOutcome) -> None:
    if not future.done():
        future.set_result(outcome)

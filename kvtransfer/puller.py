"""The decode side of the hand-over: carries out what each `PullMachine` commands, and feeds outcomes back.

Runs on the control thread's event loop, without tasks of its own: every step is a callback of a link, of the
transfer thread or of a timer.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .checksum import BlockChecksums
from .grant_desk import STALE_INCARNATION
from .lease import LeaseRefusal
from .messages import Denied, Granted, GrantRequest, RenewRequest, Reply
from .messages import Settle as SettleRequest
from .metrics import TransferTally
from .peer_link import LinkError, PeerLink
from .peer_links import SERVE_S, PeerLinks
from .pull import (
    AskGrant,
    AskRenewal,
    CheckBlocks,
    Command,
    Connect,
    PostRead,
    PullLimits,
    PullMachine,
    PullState,
    Report,
    Settle,
)
from .service import Pull, PullFailed, PullFailure, PullFinished, TransferEvent
from .transports.base import ReadOutcome

DENIALS = {
    STALE_INCARNATION: PullFailure.STALE_INCARNATION,
    LeaseRefusal.UNKNOWN.value: PullFailure.LEASE_UNKNOWN,
    LeaseRefusal.CLOSING.value: PullFailure.LEASE_UNKNOWN,
    LeaseRefusal.SETTLED.value: PullFailure.LEASE_UNKNOWN,
    LeaseRefusal.FOREIGN_BLOCKS.value: PullFailure.LEASE_UNKNOWN,
}
"""What a denial means to the engine; any other reason is `INCOMPATIBLE`."""


@dataclass(slots=True)
class _Open:
    machine: PullMachine
    link: PeerLink | None = None
    timer: asyncio.TimerHandle | None = None
    posted_at: float = 0.0


class Puller:
    """All pulls of this process that are not yet settled."""

    def __init__(
        self,
        *,
        incarnation: str,
        links: PeerLinks,
        limits: PullLimits,
        block_bytes: int,
        checksums: BlockChecksums | None,
        tasks: asyncio.TaskGroup,
        report: Callable[[TransferEvent], None],
        on_settled: Callable[[str], None],
        tally: TransferTally,
    ) -> None:
        """With `checksums`, every block is verified. `on_settled` hears of pulls that leave the table."""
        self._incarnation = incarnation
        self._links = links
        self._limits = limits
        self._block_bytes = block_bytes
        self._checksums = checksums
        self._tasks = tasks
        self._report = report
        self._on_settled = on_settled
        self._tally = tally
        self._open: dict[str, _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    def start(self, pull: Pull) -> None:
        """Begin a pull."""
        now = time.monotonic()
        machine = PullMachine(
            pull,
            limits=self._limits,
            block_bytes=self._block_bytes,
            verify=self._checksums is not None,
            now=now,
        )
        entry = self._open[pull.pull_id] = _Open(machine)
        self._perform(entry, machine.start(now))

    def cancel(self, pull_id: str) -> None:
        """Give a pull up; an unknown or settled one is no error."""
        entry = self._open.get(pull_id)
        if entry is not None:
            self._perform(entry, entry.machine.cancel(time.monotonic()))

    def on_link_lost(self, link: PeerLink) -> None:
        """A link that was open has ended."""
        for entry in list(self._open.values()):
            if entry.link is link:
                self._perform(entry, entry.machine.on_peer_lost(time.monotonic()))

    def close(self) -> None:
        """Stop the timers."""
        for entry in self._open.values():
            if entry.timer is not None:
                entry.timer.cancel()

    def _perform(self, entry: _Open, commands: list[Command]) -> None:
        """Carry out a machine's commands, then see to its timer and its end."""
        for command in commands:
            self._carry_out(entry, command)
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        machine = entry.machine
        if machine.state is PullState.ENDED:
            if self._open.pop(machine.pull.pull_id, None) is not None:
                self._on_settled(machine.pull.pull_id)
            return
        tick_at = machine.next_tick()
        if tick_at is not None:
            delay_s = max(0.0, tick_at - time.monotonic())
            entry.timer = asyncio.get_running_loop().call_later(delay_s, self._tick, entry)

    def _carry_out(self, entry: _Open, command: Command) -> None:
        pull = entry.machine.pull
        match command:
            case Connect():
                self._links.ensure((pull.host, pull.port), lambda link: self._on_link(entry, link))
            case AskGrant():
                self._ask_grant(entry)
            case AskRenewal():
                self._ask_renewal(entry)
            case PostRead():
                self._post_read(entry)
            case CheckBlocks(expected):
                name = f"kv-verify-{pull.pull_id}"
                self._tasks.create_task(self._check(entry, expected), name=name)
            case Settle():
                self._links.ensure((pull.host, pull.port), lambda link: self._settle(entry, command, link))
            case Report(event):
                self._report_event(entry, event)

    def _tick(self, entry: _Open) -> None:
        entry.timer = None
        self._perform(entry, entry.machine.on_tick(time.monotonic()))

    def _on_link(self, entry: _Open, link: PeerLink | LinkError) -> None:
        machine = entry.machine
        wanted = machine.pull.incarnation
        if isinstance(link, LinkError):
            commands = machine.on_unreachable(link.reason, link.message)
        elif link.incarnation != wanted:
            message = f"incarnation {wanted} is gone; {link.incarnation} lives there"
            commands = machine.on_unreachable(PullFailure.STALE_INCARNATION, message)
        else:
            entry.link = link
            commands = machine.on_connected(time.monotonic())
        self._perform(entry, commands)

    def _ask_grant(self, entry: _Open) -> None:
        pull, link = entry.machine.pull, _link_of(entry)
        request = GrantRequest(
            call_id=link.call_id(),
            incarnation=pull.incarnation,
            lease_id=pull.lease_id,
            consumer=self._consumer(pull),
            block_ids=pull.remote_block_ids,
            checksums=self._checksums is not None,
            progress_s=SERVE_S if link.needs_serving else 0.0,
        )
        link.request(request, lambda reply: self._on_grant(entry, reply))

    def _on_grant(self, entry: _Open, reply: Reply | None) -> None:
        now = time.monotonic()
        match reply:
            case Granted():
                commands = entry.machine.on_granted(reply.ttl_s, reply.block_crcs, now)
            case Denied():
                reason = DENIALS.get(reply.reason, PullFailure.INCOMPATIBLE)
                commands = entry.machine.on_denied(reason, reply.message)
            case _:
                commands = entry.machine.on_peer_lost(now)
        self._perform(entry, commands)

    def _ask_renewal(self, entry: _Open) -> None:
        pull, link = entry.machine.pull, _link_of(entry)
        request = RenewRequest(
            call_id=link.call_id(),
            incarnation=pull.incarnation,
            lease_id=pull.lease_id,
            consumer=self._consumer(pull),
        )
        asked_at = time.monotonic()

        def on_reply(reply: Reply | None) -> None:
            if isinstance(reply, Granted):
                commands = entry.machine.on_renewed(asked_at, reply.ttl_s, time.monotonic())
                self._perform(entry, commands)

        link.request(request, on_reply)

    def _post_read(self, entry: _Open) -> None:
        pull = entry.machine.pull
        entry.posted_at = time.monotonic()
        self._links.read(
            _link_of(entry),
            pull.remote_block_ids,
            pull.local_block_ids,
            lambda outcome: self._on_read(entry, outcome),
        )

    def _on_read(self, entry: _Open, outcome: ReadOutcome) -> None:
        now = time.monotonic()
        if outcome.error is None:
            self._tally.read_done(outcome, entry.posted_at)
            commands = entry.machine.on_read_done(outcome.done_at, now)
        else:
            commands = entry.machine.on_read_failed(outcome.error, now)
        self._perform(entry, commands)

    async def _check(self, entry: _Open, expected: Sequence[int]) -> None:
        assert self._checksums is not None
        blocks = entry.machine.pull.local_block_ids
        bad = await asyncio.to_thread(self._checksums.mismatches, blocks, expected)
        now = time.monotonic()
        if bad:
            message = (
                f"{len(bad)} of {len(blocks)} blocks differ from the peer's, the first is block {bad[0]}"
            )
            self._perform(entry, entry.machine.on_corrupt(message, now))
        else:
            self._perform(entry, entry.machine.on_verified(now))

    def _settle(self, entry: _Open, command: Settle, link: PeerLink | LinkError) -> None:
        """Tell the peer. One that is gone or restarted holds no lease any more and needs no telling."""
        pull = entry.machine.pull
        if isinstance(link, LinkError) or link.incarnation != pull.incarnation:
            self._tally.count("settlements_lost")
            self._perform(entry, entry.machine.on_settled())
            return
        request = SettleRequest(
            call_id=link.call_id(),
            incarnation=pull.incarnation,
            lease_id=pull.lease_id,
            consumer=self._consumer(pull),
            settlement=command.settlement,
        )
        link.request(request, lambda reply: self._on_settle_reply(entry, reply))

    def _on_settle_reply(self, entry: _Open, reply: Reply | None) -> None:
        if reply is not None:
            commands = entry.machine.on_settled()
        else:
            commands = entry.machine.on_settle_lost(time.monotonic())
            if entry.machine.state is PullState.ENDED:
                self._tally.count("settlements_lost")
        self._perform(entry, commands)

    def _report_event(self, entry: _Open, event: TransferEvent) -> None:
        match event:
            case PullFinished() if event.kv_bytes:
                blocks = len(entry.machine.pull.local_block_ids)
                self._tally.pull_finished(blocks=blocks, kv_bytes=event.kv_bytes, transfer_s=event.transfer_s)
            case PullFailed():
                self._tally.pull_failed(event.reason)
        self._report(event)

    def _consumer(self, pull: Pull) -> str:
        return f"{self._incarnation}/{pull.pull_id}"


def _link_of(entry: _Open) -> PeerLink:
    assert entry.link is not None, "connected comes first"
    return entry.link

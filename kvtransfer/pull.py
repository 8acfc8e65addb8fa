"""One pull of KV blocks: the decode worker's half of a hand-over, with no I/O and no clock.

A `PullMachine` is fed events and the time (seconds on this process's monotonic clock) and answers with
commands; `puller.py` carries them out and feeds the outcomes back.

    CONNECTING   the peer's control channel is being opened
    ASKING       the grant was asked for at t0
    READING      granted and posted; the transfer may write our blocks
    VERIFYING    all bytes are in place and inside the lease; checksums are being compared
    QUARANTINED  given up while the transfer may still write: the blocks stay untouched until it is terminal
    SETTLING     the peer is being told that we are done (acknowledged) or want nothing (cancelled)
    ENDED

The lease's time is a duration that starts at the peer after we asked, so bytes are trusted only if the
transfer was seen done before t0 + TTL - margin. A renewal asked for at t1 moves that to t1 + TTL - margin,
and only once the peer has acknowledged it. No clocks are compared.
"""

import enum
from dataclasses import dataclass

from .lease import Settlement
from .service import Pull, PullFailed, PullFailure, PullFinished, QuarantineLifted, TransferEvent


class PullState(enum.Enum):
    """Where a pull is in its life."""

    CONNECTING = "connecting"
    ASKING = "asking"
    READING = "reading"
    VERIFYING = "verifying"
    QUARANTINED = "quarantined"
    SETTLING = "settling"
    ENDED = "ended"


class PullEvent(enum.Enum):
    """What can happen to a pull."""

    NOTHING_TO_READ = "nothing to read"
    CONNECTED = "connected"
    UNREACHABLE = "unreachable"
    GRANTED = "granted"
    GRANTED_TOO_LATE = "granted, but no time is left to read"
    DENIED = "denied"
    RENEWED = "renewed"
    READ_DONE = "read done inside the lease"
    READ_TOO_LATE = "read done when the lease might have ended"
    READ_FAILED = "read failed; the transfer is terminal"
    VERIFIED = "verified"
    CORRUPT = "checksum differs"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    PEER_LOST = "peer lost"
    SETTLED = "the peer knows, or is gone for good"
    SETTLE_LOST = "no answer to the settlement"
    GAVE_UP = "the lease has run out by itself"


TRANSITIONS: dict[PullState, dict[PullEvent, PullState]] = {
    PullState.CONNECTING: {
        PullEvent.NOTHING_TO_READ: PullState.SETTLING,
        PullEvent.CONNECTED: PullState.ASKING,
        PullEvent.UNREACHABLE: PullState.ENDED,
        PullEvent.CANCELLED: PullState.ENDED,
        PullEvent.TIMED_OUT: PullState.ENDED,
    },
    PullState.ASKING: {
        PullEvent.GRANTED: PullState.READING,
        PullEvent.GRANTED_TOO_LATE: PullState.SETTLING,
        PullEvent.DENIED: PullState.ENDED,
        PullEvent.PEER_LOST: PullState.ENDED,
        PullEvent.CANCELLED: PullState.SETTLING,
        PullEvent.TIMED_OUT: PullState.SETTLING,
    },
    PullState.READING: {
        PullEvent.RENEWED: PullState.READING,
        PullEvent.READ_DONE: PullState.VERIFYING,
        PullEvent.READ_TOO_LATE: PullState.SETTLING,
        PullEvent.READ_FAILED: PullState.SETTLING,
        PullEvent.CANCELLED: PullState.QUARANTINED,
        PullEvent.TIMED_OUT: PullState.QUARANTINED,
        PullEvent.PEER_LOST: PullState.QUARANTINED,
    },
    PullState.QUARANTINED: {
        PullEvent.READ_DONE: PullState.SETTLING,
        PullEvent.READ_FAILED: PullState.SETTLING,
    },
    PullState.VERIFYING: {
        PullEvent.VERIFIED: PullState.SETTLING,
        PullEvent.CORRUPT: PullState.SETTLING,
        PullEvent.CANCELLED: PullState.SETTLING,
    },
    PullState.SETTLING: {
        PullEvent.SETTLED: PullState.ENDED,
        PullEvent.SETTLE_LOST: PullState.SETTLING,
        PullEvent.GAVE_UP: PullState.ENDED,
    },
    PullState.ENDED: {},
}

LATE: dict[PullState, frozenset[PullEvent]] = {
    PullState.CONNECTING: frozenset(),
    PullState.ASKING: frozenset(),
    PullState.READING: frozenset(),
    PullState.QUARANTINED: frozenset({PullEvent.RENEWED, PullEvent.CANCELLED, PullEvent.PEER_LOST}),
    PullState.VERIFYING: frozenset({PullEvent.RENEWED, PullEvent.PEER_LOST}),
    PullState.SETTLING: frozenset(
        {
            PullEvent.GRANTED,
            PullEvent.DENIED,
            PullEvent.RENEWED,
            PullEvent.VERIFIED,
            PullEvent.CORRUPT,
            PullEvent.CANCELLED,
            PullEvent.PEER_LOST,
        }
    ),
    PullState.ENDED: frozenset(PullEvent),
}
"""Answers to questions that no longer matter: allowed, and without effect. Anything else is a defect."""

SETTLE_RETRY_S = 0.2
"""First pause before an unanswered settlement is repeated; doubled each time."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the peer's control channel, or find it open."""


@dataclass(frozen=True, slots=True)
class AskGrant:
    """Ask for the lease now."""


@dataclass(frozen=True, slots=True)
class AskRenewal:
    """Ask for more time now."""


@dataclass(frozen=True, slots=True)
class PostRead:
    """Post the transfer."""


@dataclass(frozen=True, slots=True)
class CheckBlocks:
    """Compare the local blocks' checksums with the peer's, block by block."""

    expected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    """Tell the peer."""

    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the engine."""

    event: TransferEvent


Command = Connect | AskGrant | AskRenewal | PostRead | CheckBlocks | Settle | Report


@dataclass(frozen=True, slots=True, kw_only=True)
class PullLimits:
    """The durations a pull lives by, in seconds."""

    timeout_s: float
    margin_s: float
    """Subtracted from the lease's time: what clocks may drift and schedulers may delay meanwhile."""
    settle_for_s: float
    """How long an unanswered settlement is repeated: the lease's TTL, after which it has ended by itself."""


class PullMachine:
    """The life of one `Pull`. Exactly one of `PullFinished` and `PullFailed` is reported."""

    def __init__(self, pull: Pull, *, limits: PullLimits, block_bytes: int, verify: bool, now: float) -> None:
        self.pull = pull
        self.state = PullState.CONNECTING
        self._limits = limits
        self._kv_bytes = block_bytes * len(pull.local_block_ids)
        self._verify = verify
        self._started_at = now
        self._asked_at = now
        self._trusted_until = now
        self._renew_at: float | None = None
        self._crcs: tuple[int, ...] | None = None
        self._settlement = Settlement.CANCELLED
        self._settle_until = now
        self._settle_pause_s = SETTLE_RETRY_S
        self._settle_again_at: float | None = None

    @property
    def quarantined(self) -> bool:
        """True while the transfer of a failed pull may still write the destination blocks."""
        return self.state is PullState.QUARANTINED

    def start(self, now: float) -> list[Command]:
        """Begin. A pull of no blocks has nothing to wait for: it is finished and only acknowledges."""
        if self.pull.local_block_ids:
            return [Connect()]
        self._move(PullEvent.NOTHING_TO_READ)
        return [self._finished(now), self._settle(Settlement.ACKNOWLEDGED, now)]

    def on_connected(self, now: float) -> list[Command]:
        """The peer's channel is open and its incarnation is the one we were told."""
        if not self._move(PullEvent.CONNECTED):
            return []
        self._asked_at = now
        return [AskGrant()]

    def on_unreachable(self, reason: PullFailure, message: str) -> list[Command]:
        """The peer's channel cannot be opened, or another incarnation lives there."""
        return [self._failed(reason, message)] if self._move(PullEvent.UNREACHABLE) else []

    def on_granted(self, ttl_s: float, crcs: tuple[int, ...] | None, now: float) -> list[Command]:
        """The blocks are ours to read for `ttl_s` from when the peer answered, which was after we asked."""
        trusted_until = self._asked_at + ttl_s - self._limits.margin_s
        too_late = self.state is PullState.ASKING and now >= trusted_until
        if not self._move(PullEvent.GRANTED_TOO_LATE if too_late else PullEvent.GRANTED):
            return []
        if too_late:
            message = f"the grant took {now - self._asked_at:.3f} s of a lease of {ttl_s:.3f} s"
            return self._fail_and_cancel(PullFailure.LEASE_TOO_LATE, message, now)
        self._crcs = crcs
        self._trust_until(trusted_until, now)
        return [PostRead()]

    def on_denied(self, reason: PullFailure, message: str) -> list[Command]:
        """The peer grants nothing."""
        return [self._failed(reason, message)] if self._move(PullEvent.DENIED) else []

    def on_renewed(self, asked_at: float, ttl_s: float, now: float) -> list[Command]:
        """The peer acknowledged the renewal that was asked for at `asked_at`."""
        if self._move(PullEvent.RENEWED):
            self._trust_until(asked_at + ttl_s - self._limits.margin_s, now)
        return []

    def on_read_done(self, done_at: float, now: float) -> list[Command]:
        """The transfer was seen done at `done_at`; it no longer touches our blocks."""
        if self.state is PullState.QUARANTINED:
            return self._lift(PullEvent.READ_DONE, now)
        if done_at >= self._trusted_until:
            self._move(PullEvent.READ_TOO_LATE)
            late_s = done_at - self._trusted_until
            message = f"the read ended {late_s:.3f} s after the lease could still be relied on"
            return self._fail_and_cancel(PullFailure.LEASE_TOO_LATE, message, now)
        self._move(PullEvent.READ_DONE)
        if not self._verify:
            return self.on_verified(now)
        if self._crcs is None:
            return self.on_corrupt("the peer sent no checksums", now)
        return [CheckBlocks(self._crcs)]

    def on_read_failed(self, message: str, now: float) -> list[Command]:
        """The transfer ended with an error; it no longer touches our blocks."""
        if self.state is PullState.QUARANTINED:
            return self._lift(PullEvent.READ_FAILED, now)
        self._move(PullEvent.READ_FAILED)
        return self._fail_and_cancel(PullFailure.PEER_LOST, message, now)

    def on_verified(self, now: float) -> list[Command]:
        """Every checksum agrees."""
        if not self._move(PullEvent.VERIFIED):
            return []
        return [self._finished(now), self._settle(Settlement.ACKNOWLEDGED, now)]

    def on_corrupt(self, message: str, now: float) -> list[Command]:
        """A checksum differs."""
        if not self._move(PullEvent.CORRUPT):
            return []
        return self._fail_and_cancel(PullFailure.CHECKSUM, message, now)

    def cancel(self, now: float) -> list[Command]:
        """The engine wants it no more. No event follows if it has already ended for the engine."""
        return self._give_up(PullEvent.CANCELLED, PullFailure.CANCELLED, "cancelled", now)

    def on_peer_lost(self, now: float) -> list[Command]:
        """The peer's control channel broke: it is dead or cut off, and the lease cannot be renewed."""
        if self.state is PullState.CONNECTING:
            return []
        message = "the peer's control channel was lost"
        return self._give_up(PullEvent.PEER_LOST, PullFailure.PEER_LOST, message, now)

    def on_settled(self) -> list[Command]:
        """The peer knows that we are done, or will never need to."""
        self._move(PullEvent.SETTLED)
        return []

    def on_settle_lost(self, now: float) -> list[Command]:
        """The settlement got no answer; it is repeated until the lease has surely run out."""
        self._settle_again_at = now + self._settle_pause_s
        self._settle_pause_s *= 2
        self._move(
            PullEvent.GAVE_UP if self._settle_again_at >= self._settle_until else PullEvent.SETTLE_LOST
        )
        return []

    def next_tick(self) -> float | None:
        """Return when `on_tick` has something to do, if nothing else happens before."""
        match self.state:
            case PullState.CONNECTING | PullState.ASKING:
                return self._started_at + self._limits.timeout_s
            case PullState.READING:
                times_up = self._started_at + self._limits.timeout_s
                return times_up if self._renew_at is None else min(times_up, self._renew_at)
            case PullState.SETTLING:
                return self._settle_again_at
            case _:
                return None

    def on_tick(self, now: float) -> list[Command]:
        """Time has passed."""
        due = self.next_tick()
        if due is None or now < due:
            return []
        if self.state is PullState.SETTLING:
            self._settle_again_at = None
            return [Settle(self._settlement)]
        if now >= self._started_at + self._limits.timeout_s:
            message = f"not done after {self._limits.timeout_s:g} s, in state {self.state.value}"
            return self._give_up(PullEvent.TIMED_OUT, PullFailure.TIMEOUT, message, now)
        self._renew_at = None
        return [AskRenewal()]

    def _move(self, event: PullEvent) -> bool:
        """Take the table's edge; False for a late answer. Anything else is a defect of the caller."""
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            assert event in LATE[self.state], f"pull {self.pull.pull_id}: {event} in {self.state}"
            return False
        self.state = following
        return True

    def _trust_until(self, trusted_until: float, now: float) -> None:
        """Trust bytes seen before that, and ask for more time half-way there."""
        self._trusted_until = max(self._trusted_until, trusted_until)
        self._renew_at = now + (self._trusted_until - now) / 2

    def _give_up(self, event: PullEvent, reason: PullFailure, message: str, now: float) -> list[Command]:
        may_be_granted = self.state is not PullState.CONNECTING
        if not self._move(event):
            return []
        if self.state is PullState.SETTLING and may_be_granted:
            return self._fail_and_cancel(reason, message, now)
        return [self._failed(reason, message)]

    def _lift(self, event: PullEvent, now: float) -> list[Command]:
        self._move(event)
        lifted = Report(QuarantineLifted(pull_id=self.pull.pull_id))
        return [lifted, self._settle(Settlement.CANCELLED, now)]

    def _fail_and_cancel(self, reason: PullFailure, message: str, now: float) -> list[Command]:
        return [self._failed(reason, message), self._settle(Settlement.CANCELLED, now)]

    def _settle(self, settlement: Settlement, now: float) -> Settle:
        self._settlement = settlement
        self._settle_until = now + self._limits.settle_for_s
        return Settle(settlement)

    def _finished(self, now: float) -> Report:
        transfer_s = now - self._started_at
        return Report(PullFinished(pull_id=self.pull.pull_id, kv_bytes=self._kv_bytes, transfer_s=transfer_s))

    def _failed(self, reason: PullFailure, message: str) -> Report:
        return Report(
            PullFailed(
                pull_id=self.pull.pull_id,
                reason=reason,
                message=message,
                blocks_reusable=not self.quarantined,
            )
        )

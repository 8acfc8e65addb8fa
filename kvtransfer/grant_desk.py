"""The prefill side of the control channel: answers peers' requests out of the lease table.

Runs on the control thread's event loop. `answer` decides at once; only checksums take time, in another
thread.
"""

import asyncio
import time
from collections.abc import Callable

from .checksum import BlockChecksums
from .lease import LeaseRefusal, LeaseTable, Settled
from .messages import (
    Denied,
    Granted,
    GrantRequest,
    Heartbeat,
    HeartbeatReply,
    RenewRequest,
    Reply,
    Request,
    Settle,
    SettleReply,
)
from .metrics import TransferTally
from .service import LeaseEnded, Offer

STALE_INCARNATION = "stale_incarnation"
NO_CHECKSUMS = "no_checksums"


class GrantDesk:
    """Leases of the local pool, and the timer that ends them."""

    def __init__(
        self,
        *,
        incarnation: str,
        ttl_s: float,
        checksums: BlockChecksums | None,
        serve: Callable[[float], None],
        report: Callable[[LeaseEnded], None],
        tally: TransferTally,
    ) -> None:
        """`serve(seconds)` keeps the passive side of the transport moving."""
        self.leases = LeaseTable(ttl_s=ttl_s)
        self._incarnation = incarnation
        self._checksums = checksums
        self._serve = serve
        self._report = report
        self._tally = tally
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, offer: Offer, offered_at: float) -> None:
        """Hold the blocks, from when the engine offered them."""
        self.leases.offer(offer, offered_at)
        self._tally.count("leases_offered")
        self._arm()

    def release(self, lease_id: str) -> None:
        """Give a lease up."""
        self._end(self.leases.release(lease_id))

    async def answer(self, request: Request) -> Reply:
        """Return the reply to one request of a peer."""
        match request:
            case GrantRequest():
                return await self._grant(request)
            case RenewRequest():
                return self._renew(request)
            case Settle():
                return self._settle(request)
            case Heartbeat():
                if request.progress_s:
                    self._serve(request.progress_s)
                return HeartbeatReply(call_id=request.call_id)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    async def _grant(self, request: GrantRequest) -> Reply:
        if request.incarnation != self._incarnation:
            return self._stale(request)
        if request.checksums and self._checksums is None:
            message = "checksums were asked for, and this pool is not in host memory"
            return Denied(call_id=request.call_id, reason=NO_CHECKSUMS, message=message)
        refusal = self.leases.grant(request.lease_id, request.consumer, request.block_ids, time.monotonic())
        if refusal is not None:
            return _denied(request, refusal)
        if request.progress_s:
            self._serve(request.progress_s)
        crcs = None
        if request.checksums and self._checksums is not None:
            crcs = await asyncio.to_thread(self._checksums.crcs, request.block_ids)
        return Granted(call_id=request.call_id, ttl_s=self.leases.ttl_s, block_crcs=crcs)

    def _renew(self, request: RenewRequest) -> Reply:
        if request.incarnation != self._incarnation:
            return self._stale(request)
        refusal = self.leases.renew(request.lease_id, request.consumer, time.monotonic())
        if refusal is not None:
            return _denied(request, refusal)
        return Granted(call_id=request.call_id, ttl_s=self.leases.ttl_s)

    def _settle(self, request: Settle) -> Reply:
        # One for an earlier incarnation is answered too: its lease is gone, nothing is left to settle.
        if request.incarnation == self._incarnation:
            met, ended = self.leases.settle(request.lease_id, request.consumer, request.settlement)
            if met is Settled.AFTER_EXPIRY:
                self._tally.count("settlements_after_expiry")
            self._end(ended)
        return SettleReply(call_id=request.call_id)

    def _stale(self, request: GrantRequest | RenewRequest) -> Denied:
        message = f"incarnation {request.incarnation} is gone; {self._incarnation} lives here"
        return Denied(call_id=request.call_id, reason=STALE_INCARNATION, message=message)

    def _end(self, ended: list[LeaseEnded]) -> None:
        for event in ended:
            self._tally.lease_ended(event.how)
            self._report(event)

    def _arm(self) -> None:
        """Keep one timer, at or before the earliest expiry; most leases end before it and cost it nothing."""
        expiry = self.leases.next_expiry() if self._timer is None else None
        if expiry is not None:
            delay_s = max(0.0, expiry - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._end(self.leases.expire(time.monotonic()))
        self._arm()


def _denied(request: GrantRequest | RenewRequest, refusal: LeaseRefusal) -> Denied:
    message = f"lease {request.lease_id}: {refusal.value}"
    return Denied(call_id=request.call_id, reason=refusal.value, message=message)

"""A transfer service without threads or network, which holds both sides to the rules of `service.py`.

Services on one `FakeNetwork` read each other's pools. Nothing happens until the test says so: `finish`,
`fail`, `lift`, `end_lease`. Offered blocks are compared with what they held at the offer, and the destination
of a pull with what it held at its start: whoever writes into either is caught.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from baton.kvtransfer.service import (
    LeaseEnd,
    LeaseEnded,
    Offer,
    PeerConnected,
    PeerRefused,
    Pull,
    PullFailed,
    PullFailure,
    PullFinished,
    QuarantineLifted,
    TransferCounts,
    TransferEvent,
)

GARBAGE = -77.0


@dataclass
class HeldOffer:
    offer: Offer
    bytes_then: Tensor


@dataclass
class RunningPull:
    pull: Pull
    bytes_then: Tensor
    is_cancelled: bool = False


class FakeNetwork:
    """Finds services by incarnation and address."""

    def __init__(self) -> None:
        self.services: dict[str, FakeTransferService] = {}


class FakeTransferService:
    """Implements `TransferService` over a pool tensor."""

    def __init__(self, incarnation: str, kv: Tensor, network: FakeNetwork | None = None) -> None:
        self.incarnation = incarnation
        self.offers: dict[str, HeldOffer] = {}
        self.pulls: dict[str, RunningPull] = {}
        self.quarantined: dict[str, RunningPull] = {}
        self.released: list[str] = []
        self.acknowledged: list[str] = []
        self._kv = kv
        self._seen: set[str] = set()
        self._network = network or FakeNetwork()
        self._network.services[incarnation] = self
        self._on_event: Callable[[TransferEvent], None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", 1 + list(self._network.services).index(self.incarnation))

    def start(self, on_event: Callable[[TransferEvent], None]) -> None:
        self._on_event = on_event

    def close(self) -> None:
        self._on_event = None

    def offer(self, offer: Offer) -> None:
        self._claim(offer.lease_id)
        assert 0 not in offer.block_ids
        self.offers[offer.lease_id] = HeldOffer(offer, self._kv[list(offer.block_ids)].clone())

    def release(self, lease_id: str) -> None:
        self.released.append(lease_id)

    def pull(self, pull: Pull) -> None:
        self._claim(pull.pull_id)
        assert len(pull.local_block_ids) == len(pull.remote_block_ids)
        assert 0 not in pull.local_block_ids
        busy = {b for p in (*self.pulls.values(), *self.quarantined.values()) for b in p.pull.local_block_ids}
        assert not busy & set(pull.local_block_ids), "a destination block belongs to another transfer"
        self.pulls[pull.pull_id] = RunningPull(pull, self._kv[list(pull.local_block_ids)].clone())

    def cancel_pull(self, pull_id: str) -> None:
        if pull_id in self.pulls:
            self.pulls[pull_id].is_cancelled = True

    def connect(self, call_id: str, host: str, port: int) -> None:
        for service in self._network.services.values():
            if service.address == (host, port):
                self._report(PeerConnected(call_id=call_id, incarnation=service.incarnation))
                return
        self._report(PeerRefused(call_id=call_id, message=f"nobody at {host}:{port}"))

    def peers(self) -> list[str]:
        return []

    def counts(self) -> TransferCounts:
        return TransferCounts(
            leases=len(self.offers), pulls=len(self.pulls), quarantined_pulls=len(self.quarantined)
        )

    # -- what a test lets happen --

    def finish_all(self) -> None:
        """Let every pull end as the real service would: done, but cancelled ones failed."""
        for pull_id, running in list(self.pulls.items()):
            if running.is_cancelled:
                self.fail(pull_id, PullFailure.CANCELLED)
            else:
                self.finish(pull_id)

    def finish(self, pull_id: str) -> None:
        """Read the blocks and acknowledge."""
        pull = self._end(pull_id).pull
        peer = self._network.services.get(pull.incarnation)
        if peer is None or pull.lease_id not in peer.offers:
            reason = PullFailure.STALE_INCARNATION if peer is None else PullFailure.LEASE_UNKNOWN
            self._report(_failed(pull_id, reason, reusable=True))
            return
        offered = peer.offers[pull.lease_id].offer.block_ids
        assert set(pull.remote_block_ids) <= set(offered), "a block that was not offered is read"
        self._kv[list(pull.local_block_ids)] = peer._kv[list(pull.remote_block_ids)]
        peer.end_lease(pull.lease_id, LeaseEnd.ACKNOWLEDGED)
        if not pull.local_block_ids:
            self.acknowledged.append(pull.lease_id)
        kv_bytes = len(pull.local_block_ids) * self._kv[0].nbytes
        self._report(PullFinished(pull_id=pull_id, kv_bytes=kv_bytes, transfer_s=0.25))

    def fail(
        self, pull_id: str, reason: PullFailure = PullFailure.PEER_LOST, *, reusable: bool = True
    ) -> None:
        """End a pull with nothing usable; if the blocks are not reusable, garbage lands in them at `lift`."""
        running = self._end(pull_id)
        if not reusable:
            self.quarantined[pull_id] = running
        self._report(_failed(pull_id, reason, reusable=reusable))

    def lift(self, pull_id: str) -> None:
        """Let the late bytes of a failed pull land, then declare it terminal."""
        running = self.quarantined.pop(pull_id)
        self._check_untouched(running)
        self._kv[list(running.pull.local_block_ids)] = GARBAGE
        self._report(QuarantineLifted(pull_id=pull_id))

    def end_lease(self, lease_id: str, how: LeaseEnd) -> None:
        """End a lease of ours."""
        self.check_offers()
        del self.offers[lease_id]
        self._report(LeaseEnded(lease_id=lease_id, how=how))

    def check_offers(self) -> None:
        """Assert that nobody wrote into offered blocks."""
        for held in self.offers.values():
            now = self._kv[list(held.offer.block_ids)]
            assert now.equal(held.bytes_then), f"offered blocks {held.offer.block_ids} were overwritten"

    def _end(self, pull_id: str) -> RunningPull:
        running = self.pulls.pop(pull_id)
        self._check_untouched(running)
        return running

    def _check_untouched(self, running: RunningPull) -> None:
        now = self._kv[list(running.pull.local_block_ids)]
        assert now.equal(running.bytes_then), f"someone wrote into the destination of {running.pull.pull_id}"

    def _claim(self, name: str) -> None:
        assert name not in self._seen, f"{name} was used before"
        self._seen.add(name)

    def _report(self, event: TransferEvent) -> None:
        assert self._on_event is not None, "not started"
        self._on_event(event)


def _failed(pull_id: str, reason: PullFailure, *, reusable: bool) -> PullFailed:
    return PullFailed(pull_id=pull_id, reason=reason, message=reason.value, blocks_reusable=reusable)

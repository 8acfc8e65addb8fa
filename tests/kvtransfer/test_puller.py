"""What a pull does with a peer that is slow, silent, wrong or gone: against a scripted prefill worker."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from baton.kvtransfer.checksum import BlockChecksums
from baton.kvtransfer.lease import Settlement
from baton.kvtransfer.messages import (
    Denied,
    Describe,
    Granted,
    GrantRequest,
    Heartbeat,
    PeerDescription,
    RenewRequest,
    Settle,
    SettleReply,
)
from baton.kvtransfer.service import (
    PeerConnected,
    PeerRefused,
    Pull,
    PullFailed,
    PullFailure,
    PullFinished,
    QuarantineLifted,
    TransferEvent,
)
from baton.kvtransfer.transfer_service import ServiceSettings
from baton.kvtransfer.transports.sockets import SocketDescription

from .builders import LAYOUT, WAIT_S, Worker, region_of
from .scripted_peer import Answer, ScriptedPeer

Scripted = Callable[..., tuple[ScriptedPeer, Worker]]


class StallingServer:
    """Serves blocks of the socket transport, but each only when the test lets it through."""

    block = bytes(range(256)) * (LAYOUT.block_bytes // 256)

    def __init__(self) -> None:
        self.peer: ScriptedPeer
        self._permits = threading.Semaphore(0)
        self._requests = threading.Semaphore(0)
        self._seen = 0
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def describe(self, _: object) -> PeerDescription:
        """Answer for the scripted peer: its blocks lie here."""
        host, port = self._listener.getsockname()
        where = SocketDescription(incarnation=self.peer.incarnation, host=host, port=port)
        metadata = msgspec.msgpack.encode(where)
        region = region_of(self.peer.pool)
        return PeerDescription(incarnation=self.peer.incarnation, metadata=metadata, region=region)

    def let_one_block_through(self) -> None:
        self._permits.release()

    def wait_for_request(self, number: int) -> None:
        """Wait until that many requests for a block have come; the first is the warm-up."""
        while self._seen < number:
            assert self._requests.acquire(timeout=WAIT_S)
            self._seen += 1

    def close(self) -> None:
        for _ in range(10):
            self._permits.release()
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in self._connections:
            with contextlib.suppress(OSError):  # the reader may have closed it
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                with connection:
                    while connection.recv(8):
                        self._requests.release()
                        self._permits.acquire()
                        connection.sendall(self.block)


@pytest.fixture
def stall() -> Iterator[StallingServer]:
    server = StallingServer()
    yield server
    server.close()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Start a scripted peer and a decode worker."""
    closing: list[Callable[[], None]] = []

    def start(script: dict[type, Answer], **settings: Any) -> tuple[ScriptedPeer, Worker]:
        peer = ScriptedPeer(LAYOUT, num_blocks=8, seed=1, script=script)
        chosen = ServiceSettings(transport="socket", **settings)
        decode = Worker(num_blocks=8, seed=2, settings=chosen)
        closing.extend([peer.close, decode.service.close])
        return peer, decode

    yield start
    for close in reversed(closing):
        close()


def pull_from(peer: ScriptedPeer, *blocks: int) -> Pull:
    host, port = peer.address
    return Pull(
        pull_id="p1",
        incarnation=peer.incarnation,
        host=host,
        port=port,
        lease_id="r1",
        remote_block_ids=blocks,
        local_block_ids=blocks,
    )


def failure(event: TransferEvent) -> tuple[PullFailure, bool]:
    assert isinstance(event, PullFailed), event
    return event.reason, event.blocks_reusable


def received(peer: ScriptedPeer, kind: type, count: int = 1) -> list[Any]:
    """Wait for that many messages of a kind, and return all of them."""
    patience = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        found = [message for message in peer.received if isinstance(message, kind)]
        if len(found) >= count:
            return found
        patience.wait(0.01)
    raise AssertionError(f"{len(found)} of {count} {kind.__name__}")


def test_wrong_checksums_fail_the_pull_and_cancel_the_lease(scripted: Scripted) -> None:
    right: tuple[int, ...] = ()
    script = {
        GrantRequest: lambda m: Granted(call_id=m.call_id, ttl_s=30, block_crcs=(right[0], right[1] ^ 1))
    }
    peer, decode = scripted(script, verify=True)
    right = BlockChecksums(region_of(peer.pool)).crcs([5, 6])
    decode.service.pull(pull_from(peer, 5, 6))
    event = decode.event()

    assert failure(event) == (PullFailure.CHECKSUM, True)
    assert "1 of 2 blocks differ from the peer's, the first is block 6" in str(event)
    assert received(peer, Settle)[0].settlement is Settlement.CANCELLED


def test_missing_checksums_fail_a_pull_that_verifies(scripted: Scripted) -> None:
    peer, decode = scripted({}, verify=True)
    decode.service.pull(pull_from(peer, 5))

    assert failure(decode.event()) == (PullFailure.CHECKSUM, True)


def test_a_denial_for_an_unknown_reason_is_an_incompatibility(scripted: Scripted) -> None:
    script = {GrantRequest: lambda m: Denied(call_id=m.call_id, reason="full_moon", message="not tonight")}
    peer, decode = scripted(script)
    decode.service.pull(pull_from(peer, 5))
    event = decode.event()

    assert failure(event) == (PullFailure.INCOMPATIBLE, True)
    assert "not tonight" in str(event)


def test_a_lease_too_short_for_the_margin_is_not_used(scripted: Scripted) -> None:
    script = {GrantRequest: lambda m: Granted(call_id=m.call_id, ttl_s=0.5)}
    peer, decode = scripted(script, lease_margin_s=1.0)
    before = decode.pool[1:].copy()  # the warm-up reads the null block
    decode.service.pull(pull_from(peer, 5))

    assert failure(decode.event()) == (PullFailure.LEASE_TOO_LATE, True)
    assert (decode.pool[1:] == before).all()
    assert received(peer, Settle)[0].settlement is Settlement.CANCELLED


def test_a_peer_that_breaks_off_before_the_grant_fails_the_pull(scripted: Scripted) -> None:
    peer, decode = scripted({GrantRequest: lambda _: peer.drop()})
    decode.service.pull(pull_from(peer, 5))

    assert failure(decode.event()) == (PullFailure.PEER_LOST, True)


def test_an_acknowledgement_that_gets_lost_is_repeated_over_a_new_connection(scripted: Scripted) -> None:
    def lose_the_first(message: Settle) -> SettleReply | None:
        if len([m for m in peer.received if isinstance(m, Settle)]) > 1:
            return SettleReply(call_id=message.call_id)
        peer.drop()
        return None

    peer, decode = scripted({Settle: lose_the_first})
    decode.service.pull(pull_from(peer, 5))
    assert isinstance(decode.event(), PullFinished)
    first, second = received(peer, Settle, count=2)

    assert (first.lease_id, first.consumer, first.settlement) == (
        second.lease_id,
        second.consumer,
        Settlement.ACKNOWLEDGED,
    )


def test_a_silent_peer_is_lost_after_a_few_heartbeats(scripted: Scripted) -> None:
    peer, decode = scripted({Heartbeat: lambda _: None, GrantRequest: lambda _: None}, heartbeat_s=0.05)
    decode.service.pull(pull_from(peer, 5))

    assert failure(decode.event()) == (PullFailure.PEER_LOST, True)
    assert len(received(peer, Heartbeat)) >= 3


def test_a_quiet_peer_that_answers_heartbeats_stays(scripted: Scripted) -> None:
    peer, decode = scripted({}, heartbeat_s=0.02)
    decode.service.connect("c1", *peer.address)
    assert decode.event() == PeerConnected(call_id="c1", incarnation=peer.incarnation)
    received(peer, Heartbeat, count=10)

    assert decode.service.peers() == [peer.incarnation]


def test_a_peer_that_describes_somebody_else_is_refused(scripted: Scripted) -> None:
    def lie(_: object) -> PeerDescription:
        return PeerDescription(incarnation="other", metadata=b"", region=region_of(peer.pool))

    peer, decode = scripted({Describe: lie})
    decode.service.connect("c1", *peer.address)
    event = decode.event()

    assert isinstance(event, PeerRefused)
    assert f"no description of {peer.incarnation}" in event.message


def test_a_reply_that_is_none_ends_the_connection(scripted: Scripted) -> None:
    peer, decode = scripted(
        {
            GrantRequest: lambda m: Settle(
                call_id=m.call_id, incarnation="", lease_id="", consumer="", settlement=Settlement.CANCELLED
            )
        }
    )
    decode.service.pull(pull_from(peer, 5))

    assert failure(decode.event()) == (PullFailure.PEER_LOST, True)


def test_the_consumer_is_named_by_incarnation_and_pull(scripted: Scripted) -> None:
    peer, decode = scripted({})
    decode.service.pull(pull_from(peer, 5))
    assert isinstance(decode.event(), PullFinished)

    assert received(peer, GrantRequest)[0].consumer == f"{decode.service.incarnation}/p1"
    assert received(peer, GrantRequest)[0].incarnation == peer.incarnation
    assert [m for m in peer.received if isinstance(m, RenewRequest)] == []


def test_a_long_read_renews_its_lease_and_is_trusted(scripted: Scripted, stall: StallingServer) -> None:
    script = {
        GrantRequest: lambda m: Granted(call_id=m.call_id, ttl_s=1.6),
        RenewRequest: lambda m: Granted(call_id=m.call_id, ttl_s=1.6),
        Describe: stall.describe,
    }
    peer, decode = scripted(script, lease_margin_s=0.1)
    stall.peer = peer
    stall.let_one_block_through()
    decode.service.pull(pull_from(peer, 5))
    received(peer, RenewRequest, count=2)
    stall.let_one_block_through()

    assert isinstance(decode.event(), PullFinished)
    assert decode.pool[5].tobytes() == stall.block


def test_a_long_read_whose_renewal_is_denied_is_not_trusted(
    scripted: Scripted, stall: StallingServer
) -> None:
    script = {
        GrantRequest: lambda m: Granted(call_id=m.call_id, ttl_s=0.4),
        RenewRequest: lambda m: Denied(call_id=m.call_id, reason="unknown", message="expired"),
        Describe: stall.describe,
    }
    peer, decode = scripted(script, lease_margin_s=0.1)
    stall.peer = peer
    stall.let_one_block_through()
    decode.service.pull(pull_from(peer, 5))
    received(peer, RenewRequest)
    threading.Event().wait(0.4)
    stall.let_one_block_through()

    assert failure(decode.event()) == (PullFailure.LEASE_TOO_LATE, True)
    assert received(peer, Settle)[0].settlement is Settlement.CANCELLED


@pytest.mark.parametrize("cause", ["cancel", "timeout", "lost"])
def test_blocks_given_up_while_reading_are_quarantined_until_the_read_ends(
    scripted: Scripted, stall: StallingServer, cause: str
) -> None:
    timeout_s = 0.3 if cause == "timeout" else 20.0
    peer, decode = scripted({Describe: stall.describe}, pull_timeout_s=timeout_s)
    stall.peer = peer
    stall.let_one_block_through()
    decode.service.pull(pull_from(peer, 5))
    stall.wait_for_request(2)
    if cause == "cancel":
        decode.service.cancel_pull("p1")
    elif cause == "lost":
        peer.drop()

    reason = {
        "cancel": PullFailure.CANCELLED,
        "timeout": PullFailure.TIMEOUT,
        "lost": PullFailure.PEER_LOST,
    }[cause]
    assert failure(decode.event()) == (reason, False)
    assert decode.service.counts().quarantined_pulls == 1
    stall.let_one_block_through()
    assert decode.event() == QuarantineLifted(pull_id="p1")
    assert decode.service.counts().quarantined_pulls == 0
    stall.let_one_block_through()  # for the warm-up of a new link, where the old one was lost
    assert received(peer, Settle)[0].settlement is Settlement.CANCELLED

"""Two services back to back, over sockets: blocks arrive whole or not at all, and nothing is left open."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from baton.kvtransfer.layout import KvLayout
from baton.kvtransfer.messages import Hello, Refused, encode_frame
from baton.kvtransfer.service import (
    LeaseEnd,
    LeaseEnded,
    Offer,
    PeerConnected,
    PeerRefused,
    PoolRegion,
    Pull,
    PullFailed,
    PullFailure,
    PullFinished,
    TransferCounts,
    TransferEvent,
)
from baton.kvtransfer.transfer_service import ControlledTransferService, ServiceSettings

from .builders import LAYOUT, WAIT_S, Worker, random_pool, region_of

NOTHING_OPEN = TransferCounts(leases=0, pulls=0, quarantined_pulls=0)
Start = Callable[..., Worker]


@pytest.fixture
def start() -> Iterator[Start]:
    workers: list[Worker] = []

    def start(*, seed: int, layout: KvLayout = LAYOUT, num_blocks: int = 16, **settings: Any) -> Worker:
        chosen = ServiceSettings(transport="socket", **settings)
        workers.append(Worker(num_blocks=num_blocks, seed=seed, layout=layout, settings=chosen))
        return workers[-1]

    yield start
    for worker in workers:
        worker.service.close()
        assert worker.service.metrics().internal_errors == 0


@pytest.fixture
def prefill(start: Start) -> Worker:
    return start(seed=1, num_blocks=16)


@pytest.fixture
def decode(start: Start) -> Worker:
    return start(seed=2, num_blocks=24)


def pull_of(prefill: Worker, *blocks: tuple[int, int], **changes: Any) -> Pull:
    """Return a pull of (remote, local) blocks under lease r1."""
    host, port = prefill.service.address
    pull = Pull(
        pull_id="p1",
        incarnation=prefill.service.incarnation,
        host=host,
        port=port,
        lease_id="r1",
        remote_block_ids=tuple(remote for remote, _ in blocks),
        local_block_ids=tuple(local for _, local in blocks),
    )
    return msgspec.structs.replace(pull, **changes)


def failure(event: TransferEvent) -> tuple[PullFailure, bool]:
    assert isinstance(event, PullFailed), event
    return event.reason, event.blocks_reusable


def settled(worker: Worker) -> bool:
    """Wait until the worker's pulls have left its table; settling goes on after the pull's event."""
    patience = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if worker.service.counts() == NOTHING_OPEN:
            return True
        patience.wait(0.01)
    return False


def test_pulled_blocks_arrive_and_the_lease_ends(prefill: Worker, decode: Worker) -> None:
    prefill.service.offer(Offer(lease_id="r1", block_ids=(3, 9, 4)))
    decode.service.pull(pull_of(prefill, (9, 20), (3, 1)))

    event = decode.event()
    assert isinstance(event, PullFinished)
    assert (event.pull_id, event.kv_bytes) == ("p1", 2 * LAYOUT.block_bytes)
    assert (decode.pool[[20, 1]] == prefill.pool[[9, 3]]).all()
    assert prefill.event() == LeaseEnded(lease_id="r1", how=LeaseEnd.ACKNOWLEDGED)
    assert settled(prefill)
    assert settled(decode)


def test_checksums_let_right_blocks_pass(prefill: Worker, start: Start) -> None:
    decode = start(seed=2, verify=True)
    prefill.service.offer(Offer(lease_id="r1", block_ids=(3, 9)))
    decode.service.pull(pull_of(prefill, (9, 2), (3, 1)))

    assert isinstance(decode.event(), PullFinished)
    assert (decode.pool[[2, 1]] == prefill.pool[[9, 3]]).all()


def test_a_full_hit_moves_nothing_and_ends_the_lease(prefill: Worker, decode: Worker) -> None:
    before = decode.pool[1:].copy()  # the warm-up reads the null block
    prefill.service.offer(Offer(lease_id="r1", block_ids=(3,)))
    decode.service.pull(pull_of(prefill))

    event = decode.event()
    assert isinstance(event, PullFinished)
    assert event.kv_bytes == 0
    assert prefill.event() == LeaseEnded(lease_id="r1", how=LeaseEnd.ACKNOWLEDGED)
    assert (decode.pool[1:] == before).all()
    assert settled(decode)


def test_two_consumers_of_one_lease_both_get_it(prefill: Worker, decode: Worker, start: Start) -> None:
    other = start(seed=3)
    prefill.service.offer(Offer(lease_id="r1", block_ids=(3,), consumers=2))
    decode.service.pull(pull_of(prefill, (3, 1)))
    assert isinstance(decode.event(), PullFinished)
    other.service.pull(pull_of(prefill, (3, 1)))

    assert isinstance(other.event(), PullFinished)
    assert prefill.event() == LeaseEnded(lease_id="r1", how=LeaseEnd.ACKNOWLEDGED)


def test_an_offer_nobody_takes_expires(start: Start) -> None:
    prefill = start(seed=1, lease_ttl_s=0.05, lease_margin_s=0.0)
    prefill.service.offer(Offer(lease_id="r1", block_ids=(3,)))

    assert prefill.event() == LeaseEnded(lease_id="r1", how=LeaseEnd.EXPIRED)
    assert prefill.service.metrics().leases_expired == 1


def test_a_pull_after_the_lease_ended_gets_nothing(prefill: Worker, decode: Worker) -> None:
    before = decode.pool[1:].copy()  # the warm-up reads the null block
    prefill.service.offer(Offer(lease_id="r1", block_ids=(3,)))
    prefill.service.release("r1")
    assert prefill.event() == LeaseEnded(lease_id="r1", how=LeaseEnd.RELEASED)
    decode.service.pull(pull_of(prefill, (3, 1)))

    assert failure(decode.event()) == (PullFailure.LEASE_UNKNOWN, True)
    assert (decode.pool[1:] == before).all()
    assert settled(decode)


def test_blocks_that_were_not_offered_are_not_given(prefill: Worker, decode: Worker) -> None:
    prefill.service.offer(Offer(lease_id="r1", block_ids=(3,)))
    decode.service.pull(pull_of(prefill, (4, 1)))

    assert failure(decode.event()) == (PullFailure.LEASE_UNKNOWN, True)
    assert prefill.service.counts().leases == 1


def test_a_stale_incarnation_is_refused(prefill: Worker, decode: Worker) -> None:
    decode.service.pull(pull_of(prefill, (3, 1), incarnation="before the restart"))
    event = decode.event()

    assert failure(event) == (PullFailure.STALE_INCARNATION, True)
    assert f"{prefill.service.incarnation} lives there" in str(event)


def test_an_address_nobody_listens_at_is_unreachable(prefill: Worker, decode: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    decode.service.pull(pull_of(prefill, (3, 1), port=port))

    assert failure(decode.event()) == (PullFailure.UNREACHABLE, True)
    assert settled(decode)


def test_a_peer_that_says_nothing_is_given_up(prefill: Worker, start: Start) -> None:
    decode = start(seed=2, connect_timeout_s=0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        decode.service.connect("c1", "127.0.0.1", mute.getsockname()[1])
        event = decode.event()

    assert isinstance(event, PeerRefused)
    assert "no handshake within 0.1 s" in event.message


def test_a_cancelled_pull_fails_as_cancelled(prefill: Worker, start: Start) -> None:
    decode = start(seed=2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        decode.service.pull(pull_of(prefill, (3, 1), port=mute.getsockname()[1]))
        decode.service.cancel_pull("p1")
        event = decode.event()

    assert failure(event) == (PullFailure.CANCELLED, True)
    assert settled(decode)


def test_a_pull_times_out(prefill: Worker, start: Start) -> None:
    decode = start(seed=2, pull_timeout_s=0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        decode.service.pull(pull_of(prefill, (3, 1), port=mute.getsockname()[1]))

        assert failure(decode.event()) == (PullFailure.TIMEOUT, True)


def test_a_cancel_of_what_is_unknown_or_done_changes_nothing(prefill: Worker, decode: Worker) -> None:
    decode.service.cancel_pull("never heard of")
    prefill.service.release("never heard of")
    prefill.service.offer(Offer(lease_id="r1", block_ids=(3,)))
    decode.service.pull(pull_of(prefill, (3, 1)))
    assert isinstance(decode.event(), PullFinished)
    decode.service.cancel_pull("p1")

    assert prefill.event() == LeaseEnded(lease_id="r1", how=LeaseEnd.ACKNOWLEDGED)
    assert settled(decode)
    assert decode.events.empty()


def test_a_handshake_makes_a_peer_once(prefill: Worker, decode: Worker) -> None:
    host, port = prefill.service.address
    for call_id in ("c1", "c2"):
        decode.service.connect(call_id, host, port)
        assert decode.event() == PeerConnected(call_id=call_id, incarnation=prefill.service.incarnation)

    assert decode.service.peers() == [prefill.service.incarnation]
    assert prefill.service.peers() == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_differing_layouts_are_refused_with_every_difference(
    prefill: Worker, start: Start, dtype: str
) -> None:
    other = start(seed=2, layout=msgspec.structs.replace(LAYOUT, dtype=dtype, model_digest="big"))
    other.service.connect("c1", *prefill.service.address)
    event = other.event()

    assert isinstance(event, PeerRefused)
    assert f"layout.dtype: 'float32' here, '{dtype}' there" in event.message
    assert "layout.model_digest: 'tiny' here, 'big' there" in event.message
    other.service.pull(pull_of(prefill, (3, 1)))
    assert failure(other.event()) == (PullFailure.INCOMPATIBLE, True)


def test_a_refused_peer_is_told_before_it_sees_any_metadata(prefill: Worker) -> None:
    hello = Hello(protocol=99, incarnation="x", transport="socket", layout=LAYOUT)
    with socket.create_connection(prefill.service.address, timeout=WAIT_S) as connection:
        connection.sendall(encode_frame(hello))
        received = b"".join(iter(lambda: connection.recv(4096), b""))

    assert msgspec.msgpack.decode(received[4:], type=Refused).differences == ["protocol: 1 here, 99 there"]


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x01\xc1", b"\x00\x00"])
def test_noise_on_the_control_port_harms_nobody(prefill: Worker, decode: Worker, noise: bytes) -> None:
    with socket.create_connection(prefill.service.address, timeout=WAIT_S) as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""

    prefill.service.offer(Offer(lease_id="r1", block_ids=(3,)))
    decode.service.pull(pull_of(prefill, (3, 1)))
    assert isinstance(decode.event(), PullFinished)


def test_a_request_before_hello_ends_the_connection(prefill: Worker) -> None:
    refused = Refused(differences=[])
    with socket.create_connection(prefill.service.address, timeout=WAIT_S) as connection:
        connection.sendall(encode_frame(refused))

        assert connection.recv(1) == b""


def test_a_restarted_worker_is_taken_back_at_the_same_address(decode: Worker, start: Start) -> None:
    first = start(seed=1)
    host, port = first.service.address
    decode.service.connect("c1", host, port)
    decode.event()
    first.service.close()

    second = start(seed=3, port=port)
    second.service.offer(Offer(lease_id="r1", block_ids=(3,)))
    decode.service.pull(pull_of(first, (3, 1)))
    assert failure(decode.event())[0] is PullFailure.STALE_INCARNATION
    decode.service.pull(pull_of(second, (3, 1), pull_id="p2"))
    assert isinstance(decode.event(), PullFinished)
    assert (decode.pool[1] == second.pool[3]).all()
    assert decode.service.peers() == [second.service.incarnation]


def test_a_hundred_pulls_from_four_threads_all_end_well(start: Start) -> None:
    prefill, decode = start(seed=1, num_blocks=101), start(seed=2, num_blocks=101, verify=True)

    def hand_over(first: int) -> None:
        for block in range(first, 101, 4):
            prefill.service.offer(Offer(lease_id=f"r{block}", block_ids=(block,)))
            pull = pull_of(prefill, (block, 101 - block), pull_id=f"p{block}", lease_id=f"r{block}")
            decode.service.pull(pull)

    threads = [threading.Thread(target=hand_over, args=(first,)) for first in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {type(decode.event()) for _ in range(100)} == {PullFinished}
    assert {prefill.event() for _ in range(100)} == {
        LeaseEnded(lease_id=f"r{block}", how=LeaseEnd.ACKNOWLEDGED) for block in range(1, 101)
    }
    assert (decode.pool[1:] == prefill.pool[:0:-1]).all()
    assert settled(decode)
    metrics = decode.service.metrics()
    assert (metrics.transfers, metrics.blocks, metrics.failures) == (100, 100, {})
    assert metrics.kv_bytes == 100 * LAYOUT.block_bytes
    assert prefill.service.metrics().leases_ended == {"acknowledged": 100}


def test_misuse_is_refused_at_once_and_names_the_field(prefill: Worker) -> None:
    service = prefill.service
    service.offer(Offer(lease_id="r1", block_ids=(3,)))

    with pytest.raises(ValueError, match="lease_id: 'r1' is already offered"):
        service.offer(Offer(lease_id="r1", block_ids=(4,)))
    with pytest.raises(ValueError, match=r"block_ids: 16\.\.16 of a pool of 16 blocks"):
        service.offer(Offer(lease_id="r2", block_ids=(16,)))
    with pytest.raises(ValueError, match="consumers: expected at least 1, got 0"):
        service.offer(Offer(lease_id="r2", block_ids=(1,), consumers=0))
    with pytest.raises(
        ValueError, match="local_block_ids: expected as many as remote ones, got 1 remote, 0 local"
    ):
        service.pull(pull_of(prefill, (1, 1), local_block_ids=()))
    with pytest.raises(ValueError, match=r"local_block_ids: 99\.\.99 of a pool of 16 blocks"):
        service.pull(pull_of(prefill, (1, 99)))
    assert service.counts() == TransferCounts(leases=1, pulls=0, quarantined_pulls=0)


def test_a_pull_id_in_use_is_refused(prefill: Worker, decode: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        pull = pull_of(prefill, (3, 1), port=mute.getsockname()[1])
        decode.service.pull(pull)

        with pytest.raises(ValueError, match="pull_id: 'p1' is already in use"):
            decode.service.pull(pull)
        decode.service.cancel_pull("p1")
        assert failure(decode.event())[0] is PullFailure.CANCELLED


def test_a_port_that_is_taken_is_an_error(prefill: Worker, start: Start) -> None:
    with pytest.raises(OSError, match="Address already in use"):
        start(seed=2, port=prefill.service.address[1])


def test_settings_and_pools_that_do_not_fit_are_refused() -> None:
    pool = random_pool(4, seed=1)
    region = region_of(pool)
    device = PoolRegion(address=0, block_bytes=LAYOUT.block_bytes, num_blocks=4, memory="VRAM")

    with pytest.raises(ValueError, match="lease_margin_s: 2 is not within 0 and lease_ttl_s 1"):
        ServiceSettings(lease_ttl_s=1, lease_margin_s=2)
    small = msgspec.structs.replace(LAYOUT, block_tokens=1)
    with pytest.raises(ValueError, match=r"region\.block_bytes: 768, the layout has 192"):
        ControlledTransferService(settings=ServiceSettings(), layout=small, region=region)
    with pytest.raises(ValueError, match="verify: checksums need a pool in DRAM"):
        ControlledTransferService(settings=ServiceSettings(verify=True), layout=LAYOUT, region=device)

"""Services in processes of their own, over NIXL: blocks arrive verified, and a death costs what it must."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from baton.kvtransfer.service import (
    LeaseEnd,
    LeaseEnded,
    Offer,
    PeerConnected,
    Pull,
    PullFailed,
    PullFailure,
    PullFinished,
    QuarantineLifted,
    TransferCounts,
)

from .builders import LAYOUT, WAIT_S, random_pool
from .nursery import ChildProcess, Nursery

LAYOUT_64K = msgspec.structs.replace(LAYOUT, block_tokens=340)
BLOCKS = 300
NOTHING_OPEN = TransferCounts(leases=0, pulls=0, quarantined_pulls=0)
Spawn = Callable[..., "Service"]


class Service(ChildProcess):
    """A child with a transfer service and a pool."""

    def __init__(self, nursery: Nursery, *, seed: int, **settings: Any) -> None:
        super().__init__(nursery, LAYOUT_64K, BLOCKS, seed, settings)
        self.incarnation, self.host, self.port = self.ask("whoami")
        self.pool = random_pool(BLOCKS, seed, LAYOUT_64K.block_bytes)

    def event(self) -> Any:
        return self.ask("event", WAIT_S / 2)

    def connect(self, peer: "Service") -> None:
        self.ask("connect", peer.host, peer.port)
        assert self.event() == PeerConnected(call_id="connect", incarnation=peer.incarnation)

    def offer(self, lease_id: str, *blocks: int) -> None:
        self.ask("offer", Offer(lease_id=lease_id, block_ids=blocks))

    def pull(self, peer: "Service", lease_id: str, *blocks: int) -> None:
        """Pull each block into the one of the same number."""
        pull = Pull(
            pull_id=f"pull-{lease_id}",
            incarnation=peer.incarnation,
            host=peer.host,
            port=peer.port,
            lease_id=lease_id,
            remote_block_ids=blocks,
            local_block_ids=blocks,
        )
        self.ask("pull", pull)

    def holds(self, peer: "Service", *blocks: int) -> bool:
        held: bytes = self.ask("blocks", list(blocks))
        return held == peer.pool[list(blocks)].tobytes()

    def until(self, name: str, wanted: object) -> bool:
        """Wait until a question has the wanted answer."""
        give_up_at = time.monotonic() + WAIT_S / 2
        while self.ask(name) != wanted:
            if time.monotonic() > give_up_at:
                return False
        return True


@pytest.fixture(scope="module", params=[{}, {"UCX_TLS": "tcp"}], ids=["default", "tcp"])
def nursery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("services")
    nursery = Nursery(folder, module="service_child", transport="nixl", environment=request.param)
    yield nursery
    nursery.close()


@pytest.fixture
def spawn(nursery: Nursery) -> Iterator[Spawn]:
    services: list[Service] = []

    def spawn(*, seed: int, **settings: Any) -> Service:
        services.append(Service(nursery, seed=seed, **settings))
        return services[-1]

    yield spawn
    for service in reversed(services):
        service.close()


def test_verified_pulls_of_one_to_many_blocks(spawn: Spawn) -> None:
    prefill, decode = spawn(seed=1), spawn(seed=2, verify=True)
    decode.connect(prefill)
    for count in (1, 2, 30, BLOCKS - 1):
        blocks = range(1, count + 1)
        prefill.offer(f"r{count}", *blocks)
        decode.pull(prefill, f"r{count}", *blocks)

        event = decode.event()
        assert isinstance(event, PullFinished), event
        assert decode.holds(prefill, *blocks)
        assert prefill.event() == LeaseEnded(lease_id=f"r{count}", how=LeaseEnd.ACKNOWLEDGED)
    assert decode.until("counts", NOTHING_OPEN)
    assert prefill.ask("counts") == NOTHING_OPEN


def test_a_dead_prefill_worker_fails_its_pulls_and_its_successor_is_taken_back(spawn: Spawn) -> None:
    first, decode = spawn(seed=1), spawn(seed=2, verify=True)
    decode.connect(first)
    first.offer("r1", 5)
    first.kill()
    decode.pull(first, "r1", 5)

    event = decode.event()
    assert isinstance(event, PullFailed), event
    assert event.reason in {PullFailure.UNREACHABLE, PullFailure.PEER_LOST}
    assert decode.until("peers", [])
    second = spawn(seed=3, port=first.port)
    second.offer("r2", *range(1, 40))
    decode.pull(second, "r2", *range(1, 40))
    assert isinstance(decode.event(), PullFinished)
    assert decode.holds(second, *range(1, 40))
    assert decode.until("peers", [second.incarnation])
    assert decode.until("counts", NOTHING_OPEN)


def test_blocks_of_a_pull_whose_peer_died_in_it_come_back(spawn: Spawn) -> None:
    prefill, decode = spawn(seed=1), spawn(seed=2)
    decode.connect(prefill)
    blocks = range(1, BLOCKS)
    prefill.offer("r1", *blocks)
    decode.pull(prefill, "r1", *blocks)
    prefill.kill()

    # Whether the read was over, under way or not yet granted when the peer died, is the scheduler's choice.
    event = decode.event()
    if isinstance(event, PullFinished):
        assert decode.holds(prefill, *blocks)
    elif not event.blocks_reusable:
        assert event.reason is PullFailure.PEER_LOST
        assert decode.event() == QuarantineLifted(pull_id="pull-r1")
    assert decode.until("counts", NOTHING_OPEN)
    assert decode.until("peers", [])


def test_a_frozen_peer_holds_quarantined_blocks_until_it_moves_again(spawn: Spawn) -> None:
    prefill, decode = spawn(seed=1), spawn(seed=2, heartbeat_s=0.1)
    decode.connect(prefill)
    prefill.stop()
    decode.pull(prefill, "r1", 5)

    event = decode.event()
    assert isinstance(event, PullFailed)
    assert event.reason is PullFailure.PEER_LOST
    prefill.resume()
    decode.connect(prefill)
    prefill.offer("r2", 6)
    decode.pull(prefill, "r2", 6)
    assert isinstance(decode.event(), PullFinished)


def test_a_dead_decode_worker_costs_the_prefill_worker_one_lease(spawn: Spawn) -> None:
    prefill = spawn(seed=1, lease_ttl_s=0.5, lease_margin_s=0.1)
    mortal, decode = spawn(seed=2), spawn(seed=3, lease_margin_s=0.1)
    mortal.connect(prefill)
    prefill.offer("r1", 5)
    mortal.kill()

    assert prefill.event() == LeaseEnded(lease_id="r1", how=LeaseEnd.EXPIRED)
    prefill.offer("r2", 6)
    decode.pull(prefill, "r2", 6)
    assert isinstance(decode.event(), PullFinished)
    assert prefill.event() == LeaseEnded(lease_id="r2", how=LeaseEnd.ACKNOWLEDGED)
    assert prefill.ask("metrics").leases_ended == {"expired": 1, "acknowledged": 1}

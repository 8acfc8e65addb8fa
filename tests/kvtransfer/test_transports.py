"""What every transport promises, asked of each of them between two processes.

NIXL runs twice: over whatever UCX picks (shared-memory copies here), and over TCP alone, where the passive
side has to take part.
"""

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from baton.kvtransfer.service import PoolRegion
from baton.kvtransfer.transports import transport_factory
from baton.kvtransfer.transports.base import ReadOutcome

from .builders import WAIT_S, random_pool
from .nursery import ChildProcess, Nursery, RefusedError

BLOCK_BYTES = 64 * 1024
READER_BLOCKS, SERVER_BLOCKS = 40, 64
TRANSPORTS: dict[str, tuple[str, dict[str, str]]] = {
    "nixl": ("nixl", {}),
    "nixl-tcp": ("nixl", {"UCX_TLS": "tcp"}),
    "ucxx": ("ucxx", {}),
    "socket": ("socket", {}),
}
Spawn = Callable[..., "Process"]


class Process(ChildProcess):
    """A child with a transport and a pool."""

    def __init__(
        self, nursery: Nursery, *, num_blocks: int, seed: int, block_bytes: int = BLOCK_BYTES
    ) -> None:
        super().__init__(nursery, num_blocks, block_bytes, seed)
        self._read_ids = itertools.count(1)
        self.incarnation, self.description, self.region = self.ask("describe")
        self.pool = random_pool(num_blocks, seed, block_bytes)

    def add(self, peer: "Process") -> None:
        self.ask("add_peer", peer.incarnation, peer.description, peer.region)

    def post(self, peer: "Process", remote: list[int], local: list[int]) -> int:
        read_id = next(self._read_ids)
        self.ask("read", read_id, peer.incarnation, remote, local)
        return read_id

    def outcome(self, read_id: int, timeout_s: float = WAIT_S / 2) -> ReadOutcome | None:
        outcome: ReadOutcome | None = self.ask("outcome", read_id, timeout_s)
        return outcome

    def read(self, peer: "Process", remote: list[int], local: list[int]) -> str | None:
        """Read to the end and return the error."""
        outcome = self.outcome(self.post(peer, remote, local))
        assert outcome is not None, "the read never ends"
        return outcome.error

    def holds(self, peer: "Process", remote: list[int], local: list[int]) -> bool:
        """Tell whether the local blocks hold what the peer's pool began with."""
        blocks: bytes = self.ask("blocks", local)
        return blocks == peer.pool[remote].tobytes()


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[Nursery]:
    name, environment = TRANSPORTS[transport]
    folder = tmp_path_factory.mktemp(transport)
    nursery = Nursery(folder, module="transport_child", transport=name, environment=environment)
    yield nursery
    nursery.close()


def spawner(nursery: Nursery) -> Iterator[Spawn]:
    processes: list[Process] = []

    def spawn(**settings: int) -> Process:
        processes.append(Process(nursery, **settings))
        return processes[-1]

    yield spawn
    for process in processes:
        process.close()


@pytest.fixture
def spawn(nursery: Nursery) -> Iterator[Spawn]:
    yield from spawner(nursery)


@pytest.fixture(scope="module")
def pair(nursery: Nursery) -> Iterator[tuple[Process, Process]]:
    """A reader and a server that it knows; pools of different sizes."""
    spawning = spawner(nursery)
    spawn = next(spawning)
    reader = spawn(num_blocks=READER_BLOCKS, seed=1)
    server = spawn(num_blocks=SERVER_BLOCKS, seed=2)
    reader.add(server)
    yield reader, server
    assert next(spawning, None) is None


Pair = tuple[Process, Process]


def test_one_block_arrives(pair: Pair) -> None:
    reader, server = pair

    assert reader.read(server, [63], [5]) is None
    assert reader.holds(server, [63], [5])


@pytest.mark.parametrize("count", [2, 17, 40])
def test_random_blocks_arrive_each_in_its_place(pair: Pair, count: int) -> None:
    reader, server = pair
    remote = random.Random(count).sample(range(SERVER_BLOCKS), count)
    local = random.Random(-count).sample(range(READER_BLOCKS), count)

    assert reader.read(server, remote, local) is None
    assert reader.holds(server, remote, local)


def test_consecutive_blocks_arrive(pair: Pair) -> None:
    reader, server = pair
    remote, local = list(range(20, 36)), list(range(16))

    assert reader.read(server, remote, local) is None
    assert reader.holds(server, remote, local)


def test_other_blocks_are_left_alone(pair: Pair) -> None:
    reader, server = pair
    others = [block for block in range(READER_BLOCKS) if block not in {3, 9}]
    before = reader.ask("blocks", others)

    assert reader.read(server, [1, 2], [3, 9]) is None
    assert reader.ask("blocks", others) == before


def test_reads_posted_together_all_end_and_each_is_reported_once(pair: Pair) -> None:
    reader, server = pair
    reads = {reader.post(server, [index, index + 8], [index, index + 8]): index for index in range(8)}

    for read_id, index in reads.items():
        outcome = reader.outcome(read_id)
        assert outcome is not None
        assert outcome.error is None
        assert reader.holds(server, [index, index + 8], [index, index + 8])
    assert reader.ask("poll") == 0
    assert reader.outcome(min(reads), timeout_s=0.01) is None


@pytest.mark.parametrize(
    ("remote", "local", "complaint"),
    [
        ([], [], "no blocks to read"),
        ([1, 2], [1], "2 remote blocks for 1 local ones"),
        ([SERVER_BLOCKS], [1], f"remote block ids 64..64 of a pool of {SERVER_BLOCKS}"),
        ([1, 1], [1, READER_BLOCKS], f"local block ids 1..40 of a pool of {READER_BLOCKS}"),
        ([-1], [1], "remote block ids -1..-1"),
        ([1], [-1], "local block ids -1..-1"),
    ],
)
def test_bad_blocks_are_refused_before_anything_moves(
    pair: Pair, remote: list[int], local: list[int], complaint: str
) -> None:
    reader, server = pair
    before = reader.ask("blocks", list(range(READER_BLOCKS)))

    with pytest.raises(RefusedError, match=f"BadBlocksError: {complaint}"):
        reader.post(server, remote, local)
    assert reader.ask("blocks", list(range(READER_BLOCKS))) == before


def test_an_unknown_peer_is_refused(pair: Pair) -> None:
    reader, _ = pair

    with pytest.raises(RefusedError, match="UnknownPeerError: peer nobody was not added"):
        reader.ask("read", 1, "nobody", [1], [1])


def test_a_description_that_is_none_is_refused(pair: Pair) -> None:
    reader, server = pair

    with pytest.raises(RefusedError, match="TransportError"):
        reader.ask("add_peer", "somebody", b"gibberish", server.region)


def test_a_description_of_somebody_else_is_refused(pair: Pair, spawn: Spawn) -> None:
    reader, server = pair
    other = spawn(num_blocks=2, seed=3)

    with pytest.raises(RefusedError, match=f"of .*{other.incarnation}, not of somebody"):
        reader.ask("add_peer", "somebody", other.description, other.region)
    assert reader.read(server, [4], [4]) is None


def test_a_peer_with_other_blocks_is_refused(pair: Pair, spawn: Spawn) -> None:
    reader, _ = pair
    other = spawn(num_blocks=2, seed=3, block_bytes=BLOCK_BYTES // 2)

    with pytest.raises(RefusedError, match="TransportError: block_bytes: 65536 here, 32768 there"):
        reader.add(other)


def test_a_removed_peer_is_unknown_and_may_be_added_again(pair: Pair) -> None:
    reader, server = pair
    reader.ask("remove_peer", server.incarnation)
    with pytest.raises(RefusedError, match="UnknownPeerError"):
        reader.post(server, [1], [1])
    reader.ask("remove_peer", server.incarnation)

    reader.add(server)
    assert reader.read(server, [7], [7]) is None
    assert reader.holds(server, [7], [7])


def test_a_peer_that_died_between_reads_is_an_error_and_others_go_on(pair: Pair, spawn: Spawn) -> None:
    reader, server = pair
    mortal = spawn(num_blocks=8, seed=4)
    reader.add(mortal)
    assert reader.read(mortal, [1], [1]) is None
    mortal.kill()

    assert reader.read(mortal, [2], [2]) is not None
    reader.ask("remove_peer", mortal.incarnation)
    assert reader.read(server, [6], [6]) is None


def test_a_peer_that_dies_during_a_read_ends_it(pair: Pair, spawn: Spawn, transport: str) -> None:
    reader, server = pair
    mortal = spawn(num_blocks=READER_BLOCKS, seed=5)
    reader.add(mortal)
    assert reader.read(mortal, [1], [1]) is None
    mortal.stop()
    everything = list(range(READER_BLOCKS))
    read_id = reader.post(mortal, everything, everything)

    outcome = reader.outcome(read_id, timeout_s=0.2)
    mortal.kill()
    if transport == "nixl":  # the kernel copies from a stopped process: the read is done already
        assert outcome is not None
        assert reader.holds(mortal, everything, everything)
    else:
        assert outcome is None, "a stopped peer's bytes arrived"
        outcome = reader.outcome(read_id)
        assert outcome is not None
        assert outcome.error is not None
    reader.ask("remove_peer", mortal.incarnation)
    assert reader.read(server, [6], [6]) is None


def test_a_restarted_peer_is_read_as_the_new_incarnation(pair: Pair, spawn: Spawn) -> None:
    reader, _ = pair
    first = spawn(num_blocks=8, seed=6)
    reader.add(first)
    assert reader.read(first, [1], [1]) is None
    first.kill()

    second = spawn(num_blocks=8, seed=7)
    reader.add(second)
    reader.ask("remove_peer", first.incarnation)

    assert reader.read(second, [1], [1]) is None
    assert reader.holds(second, [1], [1])


def test_a_reader_that_dies_leaves_the_server_running(pair: Pair, spawn: Spawn) -> None:
    reader, server = pair
    mortal = spawn(num_blocks=8, seed=8)
    mortal.add(server)
    assert mortal.read(server, [1], [1]) is None
    mortal.kill()

    assert reader.read(server, [9], [9]) is None


def test_an_unknown_transport_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="transport: 'pigeon' is none of nixl, ucxx, socket"):
        transport_factory("pigeon", host="127.0.0.1")


def test_sockets_refuse_device_memory() -> None:
    transport = transport_factory("socket", host="127.0.0.1")("a", lambda: None)
    region = PoolRegion(address=0, block_bytes=1, num_blocks=1, memory="VRAM")

    with pytest.raises(Exception, match="plain sockets need a pool in DRAM, this one is in VRAM"):
        transport.register(region)
    transport.close()

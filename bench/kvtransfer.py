"""Pulls of KV blocks through the transfer service, beside a bare NIXL READ loop of the same blocks.

    python -m baton.bench.kvtransfer

Two processes on this machine. One holds a pool under a transfer service and under a bare NIXL agent; the
other reads it both ways in turn, round by round, so that whatever else the machine does hits both. Each
round reads the same random blocks: bare, one READ after another, busily polled; through the service, as
hand-overs (offer, grant, read, acknowledgement), several in flight, as a decode worker has them.

Prints throughput for each block size, the latency of a single small hand-over, and the CPU time of a service
that idles. The last line is the figure: the lowest ratio of any block size; the exit status says whether it
reaches the target.
"""

import argparse
import multiprocessing
import queue
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..kvtransfer.layout import KvFormat, KvLayout
from ..kvtransfer.service import Offer, PeerConnected, PoolRegion, Pull, PullFinished, TransferEvent
from ..kvtransfer.transfer_service import ControlledTransferService, ServiceSettings
from .bare_agent import BareAgent

TARGET = 0.9
BLOCK_BYTES = (64 * 1024, 256 * 1024, 1024 * 1024, 4 * 1024 * 1024)
POOL_BYTES = 256 * 1024 * 1024
PULL_BYTES = 16 * 1024 * 1024
"""What one hand-over carries; a prompt of a thousand tokens on a large model has four times as much."""
PULLS_A_ROUND = 24
PULLS_IN_FLIGHT = 8
EVENT_TIMEOUT_S = 60.0
SERVED_BYTE = 7
SETTLE_S = 2.0
"""A peer that was read may go on polling for a second."""
IDLE_S = 5.0


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """How the other process's pool is reached, both ways."""

    incarnation: str
    address: tuple[str, int]
    bare_metadata: bytes
    region: PoolRegion


class Speeds(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over rounds for one block size."""

    block_bytes: int
    bare_gb_per_s: float
    service_gb_per_s: float
    ratio: float
    """Median of the rounds' own ratios."""


def layout_of(block_bytes: int) -> KvLayout:
    """Return a layout whose blocks have that many bytes."""
    return KvLayout(
        format=KvFormat.MLA,
        dtype="float32",
        num_layers=1,
        kv_heads=1,
        values_per_token=16,
        block_tokens=block_bytes // 64,
        model_digest="bench",
    )


def make_pool(block_bytes: int, fill: int) -> tuple[NDArray[np.uint8], PoolRegion]:
    """Return a pool whose every page is present, and its region."""
    pool = np.full((POOL_BYTES // block_bytes, block_bytes), fill, dtype=np.uint8)
    return pool, PoolRegion(address=pool.ctypes.data, block_bytes=block_bytes, num_blocks=len(pool))


def serve(orders: "Connection[Any, Any]", block_bytes: int) -> None:
    """Be the process that is read: offer blocks as told, and poll the bare agent while told to."""
    pool, region = make_pool(block_bytes, SERVED_BYTE)
    service = ControlledTransferService(
        settings=ServiceSettings(), layout=layout_of(block_bytes), region=region
    )
    events: queue.SimpleQueue[TransferEvent] = queue.SimpleQueue()
    service.start(events.put)
    bare = BareAgent("bare-server", region)
    orders.send(
        Served(
            incarnation=service.incarnation,
            address=service.address,
            bare_metadata=bare.metadata,
            region=region,
        )
    )
    while True:
        match orders.recv():
            case "poll":
                while not orders.poll(0.0005):
                    bare.poll()
            case "cpu":
                used = resource.getrusage(resource.RUSAGE_SELF)
                orders.send(used.ru_utime + used.ru_stime)
            case "close":
                break
            case offers:
                for offer in offers:
                    service.offer(offer)
                orders.send(len(pool))
    service.close()


class ServiceReader:
    """The thing measured: hand-overs through the transfer service."""

    def __init__(self, region: PoolRegion, served: Served, orders: "Connection[Any, Any]") -> None:
        self._served = served
        self._orders = orders
        self._events: queue.SimpleQueue[TransferEvent] = queue.SimpleQueue()
        self._pulls = 0
        self._service = ControlledTransferService(
            settings=ServiceSettings(), layout=layout_of(region.block_bytes), region=region
        )
        self._service.start(self._events.put)
        self._service.connect("warm-up", *served.address)
        connected = self._events.get(timeout=EVENT_TIMEOUT_S)
        assert isinstance(connected, PeerConnected), connected

    def offer(self, batches: Sequence[NDArray[np.int32]]) -> list[Pull]:
        """Have the blocks offered, as a prefill worker does long before, and return the pulls of them."""
        pulls = [self._pull(tuple(batch.tolist())) for batch in batches]
        self._orders.send([Offer(lease_id=pull.lease_id, block_ids=pull.remote_block_ids) for pull in pulls])
        self._orders.recv()
        return pulls

    def perform(self, pulls: Sequence[Pull]) -> None:
        """Pull all, a few in flight at a time, until the last one is finished."""
        for index, pull in enumerate(pulls):
            if index >= PULLS_IN_FLIGHT:
                self._finish_one()
            self._service.pull(pull)
        for _ in pulls[-PULLS_IN_FLIGHT:]:
            self._finish_one()

    def close(self) -> None:
        """Stop the service."""
        self._service.close()

    def _finish_one(self) -> None:
        event = self._events.get(timeout=EVENT_TIMEOUT_S)
        assert isinstance(event, PullFinished), event

    def _pull(self, block_ids: tuple[int, ...]) -> Pull:
        self._pulls += 1
        host, port = self._served.address
        return Pull(
            pull_id=f"pull-{self._pulls}",
            incarnation=self._served.incarnation,
            host=host,
            port=port,
            lease_id=f"lease-{self._pulls}",
            remote_block_ids=block_ids,
            local_block_ids=block_ids,
        )


def batches_of(rng: np.random.Generator, region: PoolRegion) -> list[NDArray[np.int32]]:
    """Return the blocks of one round, a batch for each pull; never the null block."""
    count = PULL_BYTES // region.block_bytes
    return [
        (1 + rng.permutation(region.num_blocks - 1)[:count]).astype(np.int32) for _ in range(PULLS_A_ROUND)
    ]


def measure(block_bytes: int, rounds: int, orders: "Connection[Any, Any]") -> tuple[Speeds, float, float]:
    """Return the speeds, the latency in ms of a hand-over of one block, and an idle service's CPU share."""
    served: Served = orders.recv()
    pool, region = make_pool(block_bytes, 0)
    service = ServiceReader(region, served, orders)
    bare = BareAgent("bare-reader", region)
    bare.add(served.bare_metadata, served.region)
    orders.send("poll")
    bare.read(np.array([1], dtype=np.int32))
    rng = np.random.default_rng(1)
    _, *times = [
        time_round(bare, service, batches_of(rng, region), bare_first=number % 2 == 0)
        for number in range(rounds + 1)
    ]
    latency_ms = 1e3 * single_hand_over_s(service)
    idle = idle_cpu_share(orders)
    service.close()
    assert pool[1, 0] == SERVED_BYTE, "the last block read is not the peer's"
    round_bytes = PULLS_A_ROUND * block_bytes * len(batches_of(rng, region)[0])
    speeds = Speeds(
        block_bytes=block_bytes,
        bare_gb_per_s=round_bytes / statistics.median(bare_s for bare_s, _ in times) / 1e9,
        service_gb_per_s=round_bytes / statistics.median(service_s for _, service_s in times) / 1e9,
        ratio=statistics.median(bare_s / service_s for bare_s, service_s in times),
    )
    return speeds, latency_ms, idle


def time_round(
    bare: BareAgent, service: ServiceReader, batches: list[NDArray[np.int32]], *, bare_first: bool
) -> tuple[float, float]:
    """Read the same batches both ways; return the seconds of each, bare first."""
    pulls = service.offer(batches)
    if bare_first:
        return bare_round_s(bare, batches), service_round_s(service, pulls)
    service_s = service_round_s(service, pulls)
    return bare_round_s(bare, batches), service_s


def bare_round_s(bare: BareAgent, batches: list[NDArray[np.int32]]) -> float:
    """Return the seconds of reading all batches bare."""
    started = time.perf_counter()
    for batch in batches:
        bare.read(batch)
    return time.perf_counter() - started


def service_round_s(service: ServiceReader, pulls: Sequence[Pull]) -> float:
    """Return the seconds of pulling all batches."""
    started = time.perf_counter()
    service.perform(pulls)
    return time.perf_counter() - started


def single_hand_over_s(service: ServiceReader) -> float:
    """Return the median seconds from asking for a pull of one block to its event."""
    seconds = []
    for _ in range(50):
        pulls = service.offer([np.array([1], dtype=np.int32)])
        started = time.perf_counter()
        service.perform(pulls)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def idle_cpu_share(orders: "Connection[Any, Any]") -> float:
    """Return the CPU seconds a second of the serving process, with its peer connected and nothing to do."""
    time.sleep(SETTLE_S)
    orders.send("cpu")
    before: float = orders.recv()
    time.sleep(IDLE_S)
    orders.send("cpu")
    after: float = orders.recv()
    return (after - before) / IDLE_S


def measure_in_two_processes(block_bytes: int, rounds: int) -> tuple[Speeds, float, float]:
    """Start the process that is read, measure, and end it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, block_bytes), name="kv-bench-server")
    process.start()
    try:
        return measure(block_bytes, rounds, ours)
    finally:
        ours.send("close")
        process.join()


def main() -> int:
    """Measure every block size, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15, help="rounds for each block size")
    parser.add_argument("--block-kib", type=int, nargs="*", help="block sizes; by default 64 to 4096")
    arguments = parser.parse_args()
    sizes = BLOCK_BYTES if arguments.block_kib is None else [1024 * kib for kib in arguments.block_kib]
    ratios = []
    print("block KiB   bare GB/s   service GB/s   ratio   one block ms   idle CPU %")
    for block_bytes in sizes:
        speeds, latency_ms, idle = measure_in_two_processes(block_bytes, arguments.rounds)
        ratios.append(speeds.ratio)
        print(
            f"{block_bytes // 1024:9}   {speeds.bare_gb_per_s:9.2f}   {speeds.service_gb_per_s:12.2f}"
            f"   {speeds.ratio:5.2f}   {latency_ms:12.2f}   {100 * idle:10.2f}",
            flush=True,
        )
    figure = min(ratios)
    print(f"kvtransfer: {figure:.2f} (target >= {TARGET})")
    return 0 if figure >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())

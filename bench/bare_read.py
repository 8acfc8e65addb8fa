"""The limits of a hand-over on this machine: a bare NIXL READ between two processes, and a memory copy.

No Baton code: raw agents, one prepared pool on each side, whole blocks, as a decode worker reads them.
"""

import logging
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import numpy as np

REPEATS = 7


class Bandwidths(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a second, medians of several repeats."""

    nixl_bytes_per_s: float
    memcpy_bytes_per_s: float


def measure(block_bytes: int, blocks: int) -> Bandwidths:
    """Move `blocks` blocks of `block_bytes` each way of measuring."""
    return Bandwidths(
        nixl_bytes_per_s=block_bytes * blocks / _nixl_read_s(block_bytes, blocks),
        memcpy_bytes_per_s=block_bytes * blocks / _memcpy_s(block_bytes * blocks),
    )


def _memcpy_s(size: int) -> float:
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return sorted(times)[REPEATS // 2]


def _nixl_read_s(block_bytes: int, blocks: int) -> float:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    owner = context.Process(
        target=_own_pool, args=(there, block_bytes, blocks), name="bare pool", daemon=True
    )
    owner.start()
    try:
        return _read_pool(here, block_bytes, blocks)
    finally:
        here.send(None)
        owner.join()


def _agent(name: str, pool: Any) -> Any:
    from nixl import _api as api  # noqa: PLC0415 - each process brings up its own

    logging.getLogger("nixl").setLevel(logging.WARNING)
    config = api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
    agent = api.nixl_agent(name, config)
    agent.register_memory([(pool.ctypes.data, pool.nbytes, 0, "")], "DRAM")
    return agent


def _own_pool(pipe: Connection, block_bytes: int, blocks: int) -> None:
    """The passive side: owns the bytes, and lets the transport make progress until it is told to end."""
    pool = np.ones(block_bytes * blocks, np.uint8)
    agent = _agent("bare-owner", pool)
    pipe.send((agent.get_agent_metadata(), pool.ctypes.data))
    while not pipe.poll(0.0005):
        agent.get_new_notifs()


def _read_pool(pipe: Connection, block_bytes: int, blocks: int) -> float:
    pool = np.zeros(block_bytes * blocks, np.uint8)
    agent = _agent("bare-reader", pool)
    metadata, address = pipe.recv()
    peer = agent.add_remote_agent(metadata)
    peer = peer.decode() if isinstance(peer, bytes) else peer

    def prepare(name: str, start: int) -> Any:
        strided = np.array([[start, block_bytes, 0, block_bytes, blocks]], dtype=np.uint64)
        return agent.prep_xfer_dlist(name, strided, "DRAM")

    ours, theirs = prepare("NIXL_INIT_AGENT", pool.ctypes.data), prepare(peer, address)
    ids = np.arange(blocks, dtype=np.int32)
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        handle = agent.make_prepped_xfer("READ", ours, ids, theirs, ids)
        state = agent.transfer(handle)
        while state == "PROC":
            state = agent.check_xfer_state(handle)
        times.append(time.perf_counter() - started)
        agent.release_xfer_handle(handle)
        assert state == "DONE"
    assert pool.all()
    return sorted(times[1:])[REPEATS // 2]  # the first one pays for the connection

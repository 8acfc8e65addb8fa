"""Real ranks for tests: processes of one gloo group on this machine, each running one function."""

import datetime
import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

DEADLINE_S = 90.0
GROUP_TIMEOUT = datetime.timedelta(seconds=60)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "torch.distributed"])

RankFunction = Callable[..., Any]
"""Called with the group and the arguments; what it returns is pickled."""


def run_ranks(size: int, function: RankFunction, *arguments: Any) -> list[Any]:
    """Run `function(group, *arguments)` on `size` ranks; return their results in order of rank."""
    with tempfile.TemporaryDirectory() as folder:
        ends = [_start(rank, size, folder, function, arguments) for rank in range(size)]
        results: dict[int, Any] = {}
        waiting = {receiver: rank for rank, (receiver, _) in enumerate(ends)}
        while waiting:
            ready = wait(list(waiting), DEADLINE_S)
            assert ready, f"ranks {sorted(waiting.values())} are silent"
            for receiver in ready:
                assert isinstance(receiver, Connection)
                rank = waiting.pop(receiver)
                results[rank] = _received(receiver, rank)
        for receiver, process in ends:
            process.join(DEADLINE_S)
            receiver.close()
    failures = [f"rank {rank}: {r.text}" for rank, r in sorted(results.items()) if isinstance(r, _Failed)]
    assert not failures, "\n".join(failures)
    return [results[rank] for rank in range(size)]


class _Failed:
    def __init__(self, text: str) -> None:
        self.text = text


def _received(receiver: Connection, rank: int) -> Any:
    try:
        return pickle.loads(receiver.recv_bytes())
    except EOFError:
        return _Failed(f"rank {rank} ended without a result")


def _start(rank: int, size: int, folder: str, function: RankFunction, arguments: tuple[Any, ...]) -> Any:
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(
        target=_rank_main, args=(rank, size, folder, sender, (function, arguments)), daemon=True
    )
    process.start()
    sender.close()
    return receiver, process


def _rank_main(
    rank: int,
    size: int,
    folder: str,
    sender: Connection,
    call: tuple[RankFunction, tuple[Any, ...]],
) -> None:
    function, arguments = call
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(str(Path(folder) / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=GROUP_TIMEOUT)
        assert dist.group.WORLD is not None
        result = function(dist.group.WORLD, *arguments)
        dist.destroy_process_group()
    except BaseException:
        result = _Failed(traceback.format_exc())
    sender.send_bytes(pickle.dumps(result))  # by value: `send` would share tensors through this process
    sender.close()

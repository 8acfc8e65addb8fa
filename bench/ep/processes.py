"""Starts the ranks that measure: processes of this machine, or this one as torchrun started it."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from ...cli.free_port import free_ports
from ...engine.api.engine_process import SURROUNDINGS
from ...engine.host_memory import keep_freed_memory

LOOPBACK = "127.0.0.1"

Measurement = Callable[..., Any]
"""Called on every rank with the group and the arguments; all get the same result."""


def on_ranks(size: int, measurement: Measurement, *arguments: Any) -> Any:
    """Run a measurement on `size` gloo ranks here and return rank 0's result.

    They get the surroundings of an engine process.
    """
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    port = free_ports(1)[0]
    processes = [
        context.Process(target=_rank, args=(rank, size, port, theirs, (measurement, arguments)))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("a rank has failed") from None
    finally:
        for process in processes:
            process.join()


def on_torchrun(device: str, measurement: Measurement, *arguments: Any) -> Any:
    """Run a measurement on this process as one rank; torchrun has set where the ranks meet."""
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    result = measurement(dist.group.WORLD, *arguments)
    is_first = dist.get_rank() == 0
    dist.destroy_process_group()
    return result if is_first else None


def _rank(rank: int, size: int, port: int, results: Any, call: tuple[Measurement, Any]) -> None:
    measurement, arguments = call
    torch.set_num_threads(1)
    keep_freed_memory()  # as a worker does
    dist.init_process_group("gloo", init_method=f"tcp://{LOOPBACK}:{port}", rank=rank, world_size=size)
    result = measurement(dist.group.WORLD, *arguments)
    if rank == 0:
        results.send(result)
    results.close()
    dist.destroy_process_group()

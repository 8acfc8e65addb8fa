"""What ranks run in the tests of the mixture-of-experts backends; processes import it by name."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from baton.kernels.by_device import references
from baton.kernels.moe.all_to_all import AllToAllBatched, AllToAllContiguous
from baton.kernels.moe.allgather_reducescatter import AllGatherBatched, AllGatherContiguous
from baton.kernels.moe.backend import BATCHED_EXPERTS, CONTIGUOUS_EXPERTS, StagedMoe
from baton.kernels.moe.collectives import Collectives, TorchCollectives

from .moe_cases import Layer, owned_by

BACKENDS: dict[str, Callable[[Collectives, int], StagedMoe[Any]]] = {
    "allgather_contiguous": lambda c, n: StagedMoe(AllGatherContiguous(c, n), CONTIGUOUS_EXPERTS),
    "allgather_batched": lambda c, n: StagedMoe(AllGatherBatched(c, n), BATCHED_EXPERTS),
    "all_to_all_contiguous": lambda c, n: StagedMoe(AllToAllContiguous(c, n), CONTIGUOUS_EXPERTS),
    "all_to_all_batched": lambda c, n: StagedMoe(AllToAllBatched(c, n), BATCHED_EXPERTS),
}


def layer_sums(
    group: dist.ProcessGroup, layer: Layer, tokens_of: list[list[int]], in_torch: bool
) -> dict[tuple[str, int], Tensor]:
    """Each backend's sums for each case; `tokens_of[case][rank]` tokens, alike on all ranks where batched.

    In torch they go through the stages one by one; else, with a compiler, experts are one operation.
    """
    with references() if in_torch else contextlib.nullcontext():
        return _layer_sums(group, layer, tokens_of)


def _layer_sums(
    group: dist.ProcessGroup, layer: Layer, tokens_of: list[list[int]]
) -> dict[tuple[str, int], Tensor]:
    collectives = TorchCollectives(group, torch.device("cpu"))
    weights = layer.weights(owned_by(group.rank(), group.size(), layer.experts))
    sums = {}
    for name, make in BACKENDS.items():
        backend = make(collectives, layer.experts // group.size())
        for case, counts in enumerate(tokens_of):
            if name.endswith("batched") and len(set(counts)) > 1:
                continue
            x, ids, router = layer.routing(counts[group.rank()], seed=100 * case + group.rank())
            sums[name, case] = backend.run(x, ids, router, weights)
    return sums

"""The prepare/finalize pairs that are measured, opened by name."""

from typing import Any

import torch.distributed as dist

from ...engine.config import MoeBackendName
from ...kernels.moe.all_to_all import AllToAllBatched, AllToAllContiguous
from ...kernels.moe.allgather_reducescatter import AllGatherBatched, AllGatherContiguous
from ...kernels.moe.collectives import Collectives
from ...kernels.moe.deepep import open_elastic, open_high_throughput, open_low_latency
from ...kernels.moe.deepep_elastic import DeepEpElasticBatched, DeepEpElasticContiguous
from ...kernels.moe.deepep_high_throughput import DeepEpHighThroughput
from ...kernels.moe.deepep_low_latency import DeepEpLowLatency
from ...kernels.moe.pair import PrepareFinalize
from .shape import Shape


def open_pairs(
    name: MoeBackendName, shape: Shape, most_tokens: int, collectives: Collectives, group: dist.ProcessGroup
) -> list[PrepareFinalize[Any]]:
    """Return a backend's pairs, one for each format it has. Raises `DeepEpError` where there is no DeepEP."""
    share = shape.experts // collectives.size
    match name:
        case MoeBackendName.ALLGATHER_REDUCESCATTER:
            return [AllGatherContiguous(collectives, share), AllGatherBatched(collectives, share)]
        case MoeBackendName.ALL_TO_ALL:
            return [AllToAllContiguous(collectives, share), AllToAllBatched(collectives, share)]
        case MoeBackendName.DEEPEP_HIGH_THROUGHPUT:
            buffer = open_high_throughput(group, shape.hidden)
            return [DeepEpHighThroughput(buffer, shape.experts, share, fp8=False)]
        case MoeBackendName.DEEPEP_LOW_LATENCY:
            return [_low_latency(shape, most_tokens, group)]
        case MoeBackendName.DEEPEP_ELASTIC:
            elastic = open_elastic(group, shape.hidden, shape.top_k, most_tokens)
            return [
                DeepEpElasticContiguous(elastic, shape.experts),
                DeepEpElasticBatched(elastic, shape.experts, share),
            ]


def _low_latency(shape: Shape, most_tokens: int, group: dist.ProcessGroup) -> DeepEpLowLatency:
    rows = -(-most_tokens // 4) * 4
    return DeepEpLowLatency(
        open_low_latency(group, shape.hidden, rows, shape.experts),
        num_experts=shape.experts,
        ranks=group.size(),
        hidden=shape.hidden,
        top_k=shape.top_k,
        max_tokens=rows,
        fp8=False,
    )

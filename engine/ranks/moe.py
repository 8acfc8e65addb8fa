"""Which experts a rank owns, and the backend its tokens travel by, from the configuration."""

from typing import Any

import torch
import torch.distributed as dist

from ...kernels.moe.all_to_all import AllToAllBatched, AllToAllContiguous
from ...kernels.moe.allgather_reducescatter import AllGatherBatched, AllGatherContiguous
from ...kernels.moe.backend import BATCHED_EXPERTS, CONTIGUOUS_EXPERTS, MoeBackend, StagedMoe
from ...kernels.moe.collectives import Collectives
from ...kernels.moe.deepep import SharedBuffer, open_elastic, open_high_throughput, open_low_latency
from ...kernels.moe.deepep_elastic import DeepEpElasticBatched, DeepEpElasticContiguous
from ...kernels.moe.deepep_high_throughput import DeepEpHighThroughput
from ...kernels.moe.deepep_low_latency import DeepEpLowLatency
from ...kernels.moe.phases import PhasedMoe
from ..config import MoeBackendName, RanksConfig, Role, WorkerConfig
from ..models.config import ModelConfig


def num_slots(ranks: RanksConfig, num_experts: int) -> int:
    """Return how many expert slots all ranks have together: those wanted, rounded up to equal shares."""
    wanted = num_experts + ranks.redundant_experts
    return wanted + -wanted % ranks.size


def owned_slots(ranks: RanksConfig, num_experts: int) -> range:
    """Return the run of expert slots that a rank owns."""
    share = num_slots(ranks, num_experts) // ranks.size
    return range(ranks.rank * share, (ranks.rank + 1) * share)


def default_backend(config: WorkerConfig) -> MoeBackendName:
    """Return the backend that suits the role; without GPUs, the one that sends least."""
    if torch.device(config.device).type == "cpu":
        return MoeBackendName.ALL_TO_ALL
    if config.role is Role.PREFILL:
        return MoeBackendName.DEEPEP_HIGH_THROUGHPUT
    return MoeBackendName.DEEPEP_LOW_LATENCY


def make_backend(config: WorkerConfig, model: ModelConfig, collectives: Collectives) -> PhasedMoe:
    """Return the backend of this rank. Raises `DeepEpError` where DeepEP cannot serve the model."""
    assert config.ranks is not None
    name = config.ranks.moe_backend or default_backend(config)
    share = num_slots(config.ranks, model.moe.num_experts) // collectives.size
    match name:
        case MoeBackendName.ALLGATHER_REDUCESCATTER:
            return PhasedMoe(
                StagedMoe(AllGatherContiguous(collectives, share), CONTIGUOUS_EXPERTS),
                StagedMoe(AllGatherBatched(collectives, share), BATCHED_EXPERTS),
            )
        case MoeBackendName.ALL_TO_ALL:
            return PhasedMoe(
                StagedMoe(AllToAllContiguous(collectives, share), CONTIGUOUS_EXPERTS),
                StagedMoe(AllToAllBatched(collectives, share), BATCHED_EXPERTS),
            )
        case MoeBackendName.DEEPEP_HIGH_THROUGHPUT:
            normal = _normal(config, model, share, open_high_throughput(_world(), model.hidden_size))
            return PhasedMoe(normal, normal)
        case MoeBackendName.DEEPEP_LOW_LATENCY:
            return _low_latency(config, model, share)
        case MoeBackendName.DEEPEP_ELASTIC:
            return _elastic(config, model, share)


def _low_latency(config: WorkerConfig, model: ModelConfig, share: int) -> PhasedMoe:
    """Low-latency kernels for decode; prompts, which may be longer than a frame, by the normal ones."""
    assert config.ranks is not None
    rows = _frame_rows(config)
    slots = share * config.ranks.size
    buffer = open_low_latency(_world(), model.hidden_size, rows, slots)
    pair = DeepEpLowLatency(
        buffer,
        num_experts=slots,
        ranks=config.ranks.size,
        hidden=model.hidden_size,
        top_k=model.moe.top_k,
        max_tokens=rows,
        fp8=config.ranks.fp8_dispatch,
    )
    return PhasedMoe(_normal(config, model, share, buffer), StagedMoe(pair, BATCHED_EXPERTS))


def _elastic(config: WorkerConfig, model: ModelConfig, share: int) -> PhasedMoe:
    assert config.ranks is not None
    most, slots = max(config.max_batched_tokens, _frame_rows(config)), share * config.ranks.size
    prompts, rows = (
        open_elastic(_world(), model.hidden_size, model.moe.top_k, tokens)
        for tokens in (most, _frame_rows(config))
    )
    return PhasedMoe(
        StagedMoe(DeepEpElasticContiguous(prompts, slots), CONTIGUOUS_EXPERTS),
        StagedMoe(DeepEpElasticBatched(rows, slots, share), BATCHED_EXPERTS),
    )


def _normal(config: WorkerConfig, model: ModelConfig, share: int, buffer: SharedBuffer) -> MoeBackend:
    assert config.ranks is not None
    pair = DeepEpHighThroughput(buffer, share * config.ranks.size, share, fp8=config.ranks.fp8_dispatch)
    staged: StagedMoe[Any] = StagedMoe(pair, CONTIGUOUS_EXPERTS)
    return staged


def _frame_rows(config: WorkerConfig) -> int:
    """Decode rows of a rank at most, rounded up to what the kernels take."""
    return -(-max([config.max_num_seqs, *(config.bucket_sizes or [])]) // 4) * 4


def _world() -> dist.ProcessGroup:
    assert dist.group.WORLD is not None
    return dist.group.WORLD

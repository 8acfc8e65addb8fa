"""Puts an engine together: model, pool, transfer service, scheduler, runner. Called once, by `process`."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..kvtransfer.service import PoolRegion, TransferService
from ..kvtransfer.transfer_service import ControlledTransferService, ServiceSettings
from .block_pool import BlockListener, BlockPool
from .checkpoint.weights import OnProgress, ignore_progress
from .config import KvTransferConfig, Role, Verify, WorkerConfig
from .graphs.model import GraphedModel
from .graphs.start import StepShapes, has_graphs, with_graphs
from .intake import Limits
from .kv_cache import KvCache
from .loop import OwnPace, Pace
from .messages import EngineReady
from .models import Model, load_model
from .models.decoder import Decoder
from .ranks.group import RankGroup
from .ranks.member import load_share, run_in_step
from .ranks.phased_model import PhasedModel
from .runner import ModelRunner, SettledRunner, StepRunner
from .scheduler import Scheduler
from .sequence import null_sequence
from .sizing import engine_limits, pool_blocks
from .speculation.runner import Chain, SpeculativeRunner, Stagings
from .staging import DecodeStaging, PrefillStaging
from .step import Chunk, Step
from .threads import ComputeThreads

WARM_UP_TOKENS = 8
"""Enough for guesses to be of use."""


@dataclass(frozen=True, slots=True)
class Half:
    """What makes an engine a prefill or a decode worker's."""

    scheduler: Scheduler
    bucket_sizes: list[int]
    """Empty: decode batches are not padded."""
    bucket_of: Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Engine:
    """All parts, ready to loop."""

    scheduler: Scheduler
    runner: StepRunner
    service: TransferService
    ready: EngineReady
    pace: Pace


def load(config: WorkerConfig, on_progress: OnProgress, group: RankGroup | None = None) -> Model:
    """Load the model onto its device with the configured threads and number format.

    group  the ranks that hold the other experts; absent: all experts are loaded
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if group is not None:
        return load_share(config, group, on_progress)
    return load_model(
        config.model,
        device=config.device,
        dtype=config.dtype,
        on_progress=on_progress,
        paged=config.graphs.rehearse or None,
        keep_fp8=config.keep_fp8,
        fp8_kv=config.fp8_kv,
        draft=config.speculative is not None,
    )


def make_pool(config: WorkerConfig, model: Model) -> Tensor:
    """Allocate the KV pool. It stays where it is until the process ends: peers hold its address."""
    blocks = pool_blocks(config, model.kv_layout(config.block_tokens))
    return model.new_kv_pool(blocks, config.block_tokens)


def make_service(config: WorkerConfig, model: Model, kv: Tensor) -> TransferService:
    """Return the transfer service over the pool, not yet started."""
    layout = model.kv_layout(config.block_tokens)
    assert kv.is_contiguous()
    assert kv.nbytes == kv.shape[0] * layout.block_bytes, "the pool is not made of whole blocks"
    region = PoolRegion(
        address=kv.data_ptr(),
        block_bytes=layout.block_bytes,
        num_blocks=kv.shape[0],
        memory="VRAM" if kv.is_cuda else "DRAM",
        device_id=kv.device.index or 0,
    )
    return ControlledTransferService(
        settings=_service_settings(config.kv_transfer), layout=layout, region=region
    )


def assemble(
    config: WorkerConfig,
    model: Model,
    kv: Tensor,
    service: TransferService,
    listener: BlockListener | None,
    *,
    group: RankGroup | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Engine:
    """Build scheduler and runner around a started service; capture steps, compute one to warm up."""
    limits = engine_limits(config, model.config, kv.shape[0])
    pool = BlockPool(kv.shape[0], listener)
    cache = KvCache(pool, config.block_tokens, prefix_cache=config.prefix_cache)
    half = _half(config, limits, cache, service)
    if has_graphs(config):
        shape = StepShapes(half.bucket_sizes, -(-limits.max_model_len // config.block_tokens))
        model = with_graphs(config, model, kv, shape, on_progress)
    own_runner = _runner(config, limits, model, kv, half)
    runner: StepRunner = own_runner
    pace: Pace = OwnPace()
    if group is None:
        _warm_up(lambda step: own_runner.launch(step).land())
    else:
        runner = pace = in_step = run_in_step(config, own_runner, model, group, half.bucket_of)
        group.enter()
        _warm_up(in_step.warm_up)
    gc.collect()
    gc.freeze()  # what lives now lives on: later collections need not walk it
    ready = _ready(config, limits, model, service, half, group=group)
    return Engine(half.scheduler, runner, service, ready, pace)


def _half(config: WorkerConfig, limits: Limits, cache: KvCache, service: TransferService) -> Half:
    if config.role is Role.PREFILL:
        from ..prefill_worker.assembly import prefill_half  # noqa: PLC0415  the entry chooses the half

        return prefill_half(config, limits, cache, service)
    from ..decode_worker.assembly import decode_half  # noqa: PLC0415

    return decode_half(config, limits, cache)


def _captured_batch_sizes(model: Model) -> list[int]:
    return model.captured_batch_sizes if isinstance(model, GraphedModel | PhasedModel) else []


def _runner(config: WorkerConfig, limits: Limits, model: Model, kv: Tensor, half: Half) -> StepRunner:
    runner = _bare_runner(config, limits, model, kv, half)
    return SettledRunner(runner, partial(torch.cuda.synchronize, kv.device)) if kv.is_cuda else runner


def _bare_runner(config: WorkerConfig, limits: Limits, model: Model, kv: Tensor, half: Half) -> StepRunner:
    def decode_staging() -> DecodeStaging:
        return DecodeStaging(
            max_rows=max([config.max_decode_rows, *half.bucket_sizes]),
            max_blocks=-(-limits.max_model_len // config.block_tokens),
            block_tokens=config.block_tokens,
            device=kv.device,
            bucket_of=half.bucket_of,
        )

    prefill_staging = PrefillStaging(limits.max_batched_tokens, config.block_tokens, kv.device)
    threads = ComputeThreads.of(config)
    if config.speculative is None:
        return ModelRunner(model, kv, prefill_staging, decode_staging(), threads)
    assert isinstance(model, Decoder)
    assert model.draft is not None
    stagings = Stagings(prefill_staging, decode_staging(), decode_staging())
    chain = Chain(config.speculative.tokens, limits.max_model_len)
    return SpeculativeRunner(model, model.draft, kv, stagings, chain=chain, threads=threads)


def _warm_up(run: Callable[[Step], object]) -> None:
    """Run a prompt chunk and a decode row through the null block, so that no request pays for first calls."""
    sequence = null_sequence(max_tokens=WARM_UP_TOKENS, computed=0)
    run(Step(chunks=[Chunk(sequence, 1)]))
    sequence.num_computed = 1
    run(Step(decode=[sequence]))


def _ready(
    config: WorkerConfig,
    limits: Limits,
    model: Model,
    service: TransferService,
    half: Half,
    *,
    group: RankGroup | None,
) -> EngineReady:
    host, port = service.address
    return EngineReady(
        incarnation=service.incarnation,
        kv_host=host,
        kv_port=port,
        max_model_len=limits.max_model_len,
        num_blocks=half.scheduler.cache.pool.total + 1,
        block_tokens=config.block_tokens,
        block_bytes=model.kv_layout(config.block_tokens).block_bytes,
        bucket_sizes=half.bucket_sizes,
        captured_batch_sizes=_captured_batch_sizes(model),
        vocab_size=limits.vocab_size,
        lockstep_group=None if group is None else group.identity,
    )


def _service_settings(config: KvTransferConfig) -> ServiceSettings:
    return ServiceSettings(
        transport=config.transport.value,
        host=config.host,
        port=config.port,
        lease_ttl_s=config.lease_ttl_s,
        lease_margin_s=config.lease_margin_s,
        pull_timeout_s=config.pull_timeout_s,
        verify=config.verify is Verify.CRC,
    )

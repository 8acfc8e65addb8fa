"""A decode step on a network with a delay, computed whole and in two halves that overlap.

With a delay d of each exchange, and c for what a layer computes, a layer that exchanges twice takes 2d + c.
In two halves it takes what the longer of two things takes: one half's way through the layer, 2d + c / 2, or
all computing, c. So halves can save c / 2 of 2d + c where computing is shorter than four delays, 2d of 2d + c
beyond, and a third at most; the quarter that is the target needs c between 2d and 6d, and about as much of it
before the dispatch as behind it: a wait is only covered by what the other half has to do at that time. Where
computing is shorter, halves save little: each half waits for its own two exchanges all the same.

The batch measured here is of the kind that pays: unless they are given, rows are as many as make c, computed
whole, 3.2 delays on this machine at this time. By the above, if halves lose a twentieth, they save a quarter
from 2.4 to 5 delays, and to 4.3 if they lose a tenth, as they do near four, where nothing has any slack. In
the middle of that a machine may be 1.3 times as fast or as slow as it was when rows were chosen. Contexts and
experts are fixed, such that on the core measured half of c is behind the dispatch. Experts are small, since
each half reads all their weights: one gets a hundred rows and more, as it does where many ranks share many.

A core whose other half computes for somebody else takes twice the time, for seconds. So steps of both kinds
take turns for most of a minute, and of each the best quarter counts: what else a machine does only adds. The
best step of each alone may have found the machine in a state that no step of the other kind did.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist

from ...engine.batch import DecodeBatch
from ...engine.config import RanksConfig
from ...engine.models.architectures import read_model_config
from ...engine.models.loading import load
from ...engine.ranks.member import cluster_of
from ...engine.ranks.moe import owned_slots
from ...engine.ranks.phased_model import PhasedModel
from ...engine.ranks.rebalance import Rebalancer
from ...kernels.moe.all_to_all import AllToAllBatched, AllToAllContiguous
from ...kernels.moe.backend import BATCHED_EXPERTS, CONTIGUOUS_EXPERTS, StagedMoe
from ...kernels.moe.phases import PhasedMoe
from ...tests.support.checkpoints import make_deepseek_v2
from .slow_network import Medium, SlowCollectives

BLOCK_TOKENS = 64
MAX_LEN = 1024
POOL_STEPS = 4
"""KV blocks in the pool for each one in use; where it is well filled, a decode step gathers KV anew."""
COMPUTING_DELAYS = 3.2
"""What a layer is to compute for, in delays"""
TRIED_ROWS = 256
LOOKS = 2
"""From so many rows first, then from what they told: the machine may have been slow for a while"""
ROW_STEP = 8
FEWEST, MOST = 128, 1024
BEST_PART = 4
"""Of so many steps of a kind one counts"""
TOKENS = 256
"""Different ones among those that the rows go on from; the model knows more"""
WARM_UPS = 2


class Overlap(msgspec.Struct, frozen=True):
    """The best steps of each kind, seconds on the slowest rank."""

    rows: int
    """Sequences of a rank."""
    computing_s: float
    """Whole, without delay."""
    halving_s: float
    """In halves, without delay."""
    whole_s: float
    halves_s: float

    @property
    def cut(self) -> float:
        """Share of the whole step that halves save."""
        return 1 - self.halves_s / self.whole_s


def make_checkpoint(folder: Path) -> Path:
    """Write a DeepSeek-V2-shaped model, every layer a mixture of experts that get about as many tokens each.

    What evens V3's load out, its router's biases, a random checkpoint cannot have.
    """
    return make_deepseek_v2(
        folder,
        hidden_size=256,
        num_hidden_layers=12,
        first_k_dense_replace=0,
        num_attention_heads=4,
        num_key_value_heads=4,
        kv_lora_rank=64,
        q_lora_rank=128,
        qk_nope_head_dim=48,
        qk_rope_head_dim=16,
        v_head_dim=48,
        n_routed_experts=16,
        n_shared_experts=1,
        num_experts_per_tok=8,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        intermediate_size=512,
        moe_intermediate_size=128,
        max_position_embeddings=MAX_LEN,
        rope_scaling=None,
    )


class OverlapPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured."""

    rows: int | None
    """Sequences of a rank; absent: as many as suit."""
    context: int
    """Tokens of each."""
    delay_s: float
    rounds: int


def measure_overlap(group: dist.ProcessGroup, folder: Path, plan: OverlapPlan, medium: Medium) -> Overlap:
    """Decode with the model in `folder`; all ranks call, all get the result."""
    collectives = SlowCollectives(group, medium)
    model = _load(folder, collectives)
    rows = plan.rows or _suitable_rows(model, collectives, plan)
    steps = Steps(model, collectives, rows, plan.context)
    whole_s, halves_s = _compared(steps, plan.delay_s, plan.rounds)
    computing_s, halving_s = _compared(steps, 0.0, -(-plan.rounds // 2))
    return Overlap(rows, computing_s, halving_s, whole_s, halves_s)


def _suitable_rows(model: PhasedModel, collectives: SlowCollectives, plan: OverlapPlan) -> int:
    """Return how many rows there must be for a layer to compute for so many delays."""
    wanted_s = COMPUTING_DELAYS * plan.delay_s * model.config.num_layers
    rows = TRIED_ROWS
    for _ in range(LOOKS):
        steps = Steps(model, collectives, rows, plan.context)
        took_s = _best_on_slowest([steps.seconds(0.0, is_split=False) for _ in range(plan.rounds)])
        rows = min(max(int(rows * wanted_s / took_s) // ROW_STEP * ROW_STEP, FEWEST), MOST)
    return rows


def _compared(steps: "Steps", delay_s: float, rounds: int) -> tuple[float, float]:
    """Seconds of a step computed whole, and in halves."""
    turns = [
        (steps.seconds(delay_s, is_split=False), steps.seconds(delay_s, is_split=True)) for _ in range(rounds)
    ]
    whole, halves = zip(*turns, strict=True)
    return _best_on_slowest(whole), _best_on_slowest(halves)


def _best_on_slowest(times: Sequence[float]) -> float:
    """Mean of the best part of some steps, each as its slowest rank saw it."""
    seconds = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    counted = -(-len(times) // BEST_PART)
    return float(seconds.sort().values[:counted].mean())


class Steps:
    """A decode step that can be repeated: every sequence goes on from the step before."""

    def __init__(self, model: PhasedModel, collectives: SlowCollectives, rows: int, context: int) -> None:
        self._model = model
        self._collectives = collectives
        model.decode_rows = rows
        blocks = rows * -(-context // BLOCK_TOKENS)
        self._kv = model.new_kv_pool(1 + POOL_STEPS * blocks, BLOCK_TOKENS)
        used = self._kv[1 : 1 + blocks]
        used.copy_(torch.randn(used.shape, generator=torch.Generator().manual_seed(1)))
        self._batch = _batch(rows, context)
        self.seconds(0.0, is_split=False)
        self._batch = replace(self._batch, continued=[True] * rows)
        for is_split in (False, True) * WARM_UPS:
            self.seconds(0.0, is_split)

    def seconds(self, delay_s: float, is_split: bool) -> float:
        """Compute the step, whole or in halves."""
        self._collectives.delay_s, self._model.decode_in_halves = delay_s, is_split
        dist.barrier()
        started = time.perf_counter()
        self._model.decode(self._batch, self._kv)
        return time.perf_counter() - started


def _load(folder: Path, collectives: SlowCollectives) -> PhasedModel:
    shape = read_model_config(folder)
    share = shape.moe.num_experts // collectives.size
    moe = PhasedMoe(
        StagedMoe(AllToAllContiguous(collectives, share), CONTIGUOUS_EXPERTS),
        StagedMoe(AllToAllBatched(collectives, share), BATCHED_EXPERTS),
    )
    ranks = RanksConfig(rank=collectives.rank, size=collectives.size, port=0)
    model = load(
        folder,
        device="cpu",
        dtype=None,
        on_progress=None,
        experts=owned_slots(ranks, shape.moe.num_experts),
        backend=moe,
    )
    still = Rebalancer(model.moe_layers, collectives, cluster_of(ranks, shape), ranks)  # no redundant experts
    return PhasedModel(model, moe, still)


def _batch(rows: int, context: int) -> DecodeBatch:
    blocks = -(-context // BLOCK_TOKENS)
    tables = torch.arange(1, 1 + rows * blocks, dtype=torch.int32).view(rows, blocks)
    last = context - 1
    return DecodeBatch(
        token_ids=5 + torch.arange(rows) % TOKENS,
        positions=torch.full((rows,), last),
        slots=tables[:, -1].long() * BLOCK_TOKENS + last % BLOCK_TOKENS,
        block_tables=tables,
        context_lens=torch.full((rows,), context, dtype=torch.int32),
        live=rows,
        continued=[False] * rows,
    )

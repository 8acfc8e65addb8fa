"""The engine's gauges and counters, as one message. Pure."""

from ..kvtransfer.service import TransferService
from .messages import EngineStats, ExpertBalance, RankStanding
from .scheduler import Scheduler


def engine_stats(
    scheduler: Scheduler,
    service: TransferService,
    balance: ExpertBalance | None = None,
    ranks: RankStanding | None = None,
) -> EngineStats:
    """Return how the engine stands now and what it has counted since its start."""
    roster, counters = scheduler.roster, scheduler.counters
    blocks = scheduler.cache.pool.counts()
    return EngineStats(
        running=len(roster.prefilling) + len(roster.decoding),
        waiting=len(roster.waiting) + len(roster.ready),
        waiting_for_kv=len(roster.pulling),
        kv_usage=(blocks.in_use + blocks.quarantined) / blocks.total,
        prefix_queries_tokens=counters.prefix_queries_tokens,
        prefix_hits_tokens=counters.prefix_hits_tokens,
        prompt_tokens=counters.prompt_tokens,
        prompt_tokens_local_compute=counters.prompt_tokens_local_compute,
        prompt_tokens_local_cache=counters.prompt_tokens_local_cache,
        prompt_tokens_pulled=counters.prompt_tokens_pulled,
        generated_tokens=counters.generated_tokens,
        preemptions=counters.preemptions,
        steps=counters.steps,
        leases=scheduler.leases,
        leases_expired=counters.leases_expired,
        pulls=scheduler.pulls,
        pulls_failed=dict(counters.pulls_failed),
        kv_bytes_pulled=counters.kv_bytes_pulled,
        peers=service.peers(),
        blocks=blocks,
        expert_balance=balance,
        ranks=ranks,
        drafts=counters.drafts,
        draft_tokens=counters.draft_tokens,
        accepted_tokens=[counters.accepted_tokens[place] for place in range(scheduler.limits.draft_tokens)],
    )

"""What came of a simulation: percentiles, goodput under an objective, cache hits, imbalance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from .job import Job
from .simulation import Simulation


class Objective(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request must meet to count as good."""

    ttft_s: float = 5.0
    tpot_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one measure over all requests."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One policy's figures."""

    name: str
    requests: int
    ttft_s: Percentiles
    tpot_s: Percentiles
    goodput: float
    """Good requests a second, from the first arrival to the last one's end."""
    good_share: float
    hit_rate: float
    """Prompt tokens that were not computed, over all prompt tokens."""
    prefill_imbalance: float
    """Tokens computed by the busiest prefill worker over the mean."""
    decode_imbalance: float
    prefill_busy: float
    """Mean share of the time, until the last prompt was computed, that prefill workers computed."""
    decode_alone: float
    """Share of the requests that no prefill worker saw."""
    ttfts_s: tuple[float, ...]
    tpots_s: tuple[float, ...]


def judge(name: str, simulation: Simulation, objective: Objective) -> Outcome:
    """Return the figures of a simulation that has run."""
    jobs = simulation.jobs
    ttfts = [ttft_s(job) for job in jobs]
    tpots = [tpot_s(job) for job in jobs]
    good = sum(
        ttft <= objective.ttft_s and tpot <= objective.tpot_s for ttft, tpot in zip(ttfts, tpots, strict=True)
    )
    prompt = sum(job.prompt_tokens for job in jobs)
    computed = sum(worker.computed_tokens for worker in simulation.prefill.values())
    computed += sum(worker.computed_tokens for worker in simulation.decode.values())
    lasted = max(job.finished_at for job in jobs) - jobs[0].request.at_s
    prefilled_by = max(job.prefilled_at for job in jobs) - jobs[0].request.at_s
    return Outcome(
        name=name,
        requests=len(jobs),
        ttft_s=percentiles(ttfts),
        tpot_s=percentiles([tpot for job, tpot in zip(jobs, tpots, strict=True) if _has_gaps(job)]),
        goodput=good / lasted,
        good_share=good / len(jobs),
        hit_rate=1.0 - computed / prompt,
        prefill_imbalance=imbalance(worker.computed_tokens for worker in simulation.prefill.values()),
        decode_imbalance=imbalance(worker.decoded_tokens for worker in simulation.decode.values()),
        prefill_busy=sum(worker.busy_s for worker in simulation.prefill.values())
        / max(len(simulation.prefill) * prefilled_by, 1e-9),
        decode_alone=sum(job.decision.prefill is None for job in jobs) / len(jobs),
        ttfts_s=tuple(ttfts),
        tpots_s=tuple(tpots),
    )


def ttft_s(job: Job) -> float:
    """Return the time from arrival to the first token."""
    return job.first_token_at - job.request.at_s


def tpot_s(job: Job) -> float:
    """Return the mean time between tokens; 0 for an answer of one."""
    return (job.finished_at - job.first_token_at) / (job.request.output_tokens - 1) if _has_gaps(job) else 0.0


def _has_gaps(job: Job) -> bool:
    return job.request.output_tokens > 1


def percentiles(values: Sequence[float]) -> Percentiles:
    """Return nearest-rank percentiles; zeros for nothing."""
    if not values:
        return Percentiles(0.0, 0.0, 0.0)
    ordered = sorted(values)
    p50, p90, p99 = (ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.9, 0.99))
    return Percentiles(p50, p90, p99)


def imbalance(amounts: Iterable[float]) -> float:
    """Return the largest over the mean; 1 when nothing was done."""
    listed = list(amounts)
    total = sum(listed)
    return max(listed) * len(listed) / total if total else 1.0

"""Figures to tables and a verdict. Pure."""

import statistics
from collections.abc import Iterator

import msgspec

from ..table import ms, render
from .rounds import Sample

TARGET_RATIO = 3.0
OURS, THEIRS = "baton decode", "vllm"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One workload on one checkpoint: medians over the rounds."""

    model: str
    workload: str
    server: str
    rate: float
    peer_rate: float
    together: float
    peer_together: float
    first_token_s: float
    peer_first_token_s: float
    ratio: float
    """Median over the rounds of this server's rate by the peer's"""
    least_ratio: float
    """Of the rounds"""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far both engines' greedy tokens are the same."""

    streams: int
    same: int
    tokens: int
    same_tokens: int
    """Before each stream's first difference"""


def compare(model: str, samples: list[Sample]) -> list[Comparison]:
    """Set every server but the peer beside the peer, workload by workload."""
    found = []
    for workload in dict.fromkeys(sample.workload for sample in samples):
        peer = _by_round(samples, workload, THEIRS)
        for server in dict.fromkeys(s.target for s in samples if s.target != THEIRS):
            own = _by_round(samples, workload, server)
            if own and peer:
                found.append(_comparison(model, workload, server, own, peer))
    return found


def _by_round(samples: list[Sample], workload: str, server: str) -> list[Sample]:
    chosen = [s for s in samples if (s.workload, s.target) == (workload, server)]
    return sorted(chosen, key=lambda sample: sample.round)


def _comparison(model: str, workload: str, server: str, own: list[Sample], peer: list[Sample]) -> Comparison:
    ratios = [mine.speed.rate / other.speed.rate for mine, other in zip(own, peer, strict=True)]

    def median(samples: list[Sample], name: str) -> float:
        return statistics.median(float(getattr(sample.speed, name)) for sample in samples)

    return Comparison(
        model=model,
        workload=workload,
        server=server,
        rate=median(own, "rate"),
        peer_rate=median(peer, "rate"),
        together=median(own, "together"),
        peer_together=median(peer, "together"),
        first_token_s=median(own, "first_token_s"),
        peer_first_token_s=median(peer, "first_token_s"),
        ratio=statistics.median(ratios),
        least_ratio=min(ratios),
    )


def agreement(samples: list[Sample]) -> Agreement:
    """Compare what both engines answered to the same prompts."""
    pairs = list(_answer_pairs(samples))
    prefixes = [_common_prefix(own, peer) for own, peer in pairs]
    return Agreement(
        streams=len(pairs),
        same=sum(own == peer for own, peer in pairs),
        tokens=sum(len(own) for own, _ in pairs),
        same_tokens=sum(prefixes),
    )


def _answer_pairs(samples: list[Sample]) -> Iterator[tuple[list[int], list[int]]]:
    theirs = {(s.round, s.workload): s.speed.token_ids for s in samples if s.target == THEIRS}
    for sample in samples:
        if sample.target != THEIRS:
            yield from zip(sample.speed.token_ids, theirs[sample.round, sample.workload], strict=True)


def _common_prefix(own: list[int], peer: list[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(own, peer, strict=True)) if a != b), len(own))


def comparison_table(found: list[Comparison]) -> str:
    """Return the speeds side by side."""
    header = ["checkpoint, workload", "server", "tokens/s", "vllm", "ratio", "least", "together", "vllm",
              "first token, ms", "vllm"]  # fmt: skip
    rows = [
        [
            f"{c.model}, {c.workload}",
            c.server,
            *(f"{rate:.0f}" for rate in (c.rate, c.peer_rate)),
            *(f"{ratio:.2f}" for ratio in (c.ratio, c.least_ratio)),
            *(f"{rate:.0f}" for rate in (c.together, c.peer_together)),
            *(ms(wait) for wait in (c.first_token_s, c.peer_first_token_s)),
        ]
        for c in found
    ]
    return render(header, rows)


def agreement_line(model: str, found: Agreement) -> str:
    """Say how far the engines agree."""
    return (
        f"{model}: greedy tokens of both engines are the same in {found.same} of {found.streams} streams "
        f"({found.same_tokens} of {found.tokens} tokens before a first difference)"
    )


def verdict(found: list[Comparison]) -> tuple[str, bool]:
    """Return the last line, and whether the decode worker reaches the target on every workload."""
    judged = [comparison for comparison in found if comparison.server == OURS]
    if not judged:
        return f"bench-engine: nothing was compared (target >= {TARGET_RATIO:.0f}x)", False
    worst = min(comparison.ratio for comparison in judged)
    return f"bench-engine: {worst:.2f}x (target >= {TARGET_RATIO:.0f}x)", worst >= TARGET_RATIO

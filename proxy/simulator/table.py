"""Outcomes as rows of text, for the terminal and for the page."""

from collections.abc import Sequence

from .outcome import Outcome

HEADER = (
    "policy", "TTFT p50 s", "p90", "p99", "TPOT p50 ms", "p90", "p99", "goodput/s", "good %",
    "hit %", "imbalance P", "D", "P busy %", "D alone %",
)  # fmt: skip


def row(outcome: Outcome, name: str | None = None) -> tuple[str, ...]:
    """Return one outcome's figures, in the order of `HEADER`."""
    ttft, tpot = outcome.ttft_s, outcome.tpot_s
    return (
        name or outcome.name,
        *(f"{value:.2f}" for value in (ttft.p50, ttft.p90, ttft.p99)),
        *(f"{value * 1000:.1f}" for value in (tpot.p50, tpot.p90, tpot.p99)),
        f"{outcome.goodput:.3f}",
        f"{outcome.good_share * 100:.1f}",
        f"{outcome.hit_rate * 100:.1f}",
        f"{outcome.prefill_imbalance:.2f}",
        f"{outcome.decode_imbalance:.2f}",
        f"{outcome.prefill_busy * 100:.0f}",
        f"{outcome.decode_alone * 100:.0f}",
    )


def render(rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its header: the first column flush left, the others flush right."""
    lines = [HEADER, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            [cells[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        )
        for cells in lines
    )

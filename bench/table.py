"""Plain tables and percentiles for the benches' output."""

from collections.abc import Sequence


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns: the first flush left, the others flush right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * width for width in widths]

    def row(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])

    return "\n".join([row(header), row(rule), *(row(line) for line in rows)])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of `values`; `share` between 0 and 1. NaN for none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def ms(seconds: float) -> str:
    """Return seconds as milliseconds with one decimal."""
    return f"{seconds * 1000:.1f}"

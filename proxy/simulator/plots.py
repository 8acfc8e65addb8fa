"""Line plots and bars as SVG text: no dependency, nothing to fetch."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

COLOURS = (
    "#d1495b", "#30638e", "#edae49", "#00798c", "#7a5195", "#5f7a39", "#8c564b", "#7f7f7f", "#17a2b8",
    "#222222",
)  # fmt: skip
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44


@dataclass(frozen=True, slots=True)
class Series:
    """One curve of a distribution."""

    name: str
    values: Sequence[float]


def distribution(series: Sequence[Series], *, label: str, limit: float | None = None) -> str:
    """Return the cumulative distributions of `series` over a logarithmic axis; `limit` is marked."""
    positive = [value for one in series for value in one.values if value > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
    first, last = floor(log10(low)), floor(log10(high)) + 1
    span = last - first

    def x(value: float) -> float:
        return LEFT + (log10(max(value, low)) - first) / span * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    parts = [_tick_y(y(share), f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)]
    parts += [_tick_x(x(10.0**power), f"{10.0**power:g}") for power in range(first, last + 1)]
    if limit is not None and low < limit:
        parts.append(f'<line class="limit" x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="{TOP}" y2="{y(0)}"/>')
    for colour, one in zip(_colours(len(series)), series, strict=True):
        ordered = sorted(one.values)
        step = max(len(ordered) // 400, 1)
        points = [
            f"{x(value):.1f},{y((rank + 1) / len(ordered)):.1f}"
            for rank, value in enumerate(ordered)
            if rank % step == 0 or rank == len(ordered) - 1
        ]
        name = f"<title>{escape(one.name)}</title>"
        parts.append(f'<polyline points="{" ".join(points)}" stroke="{colour}">{name}</polyline>')
    parts.append(_axis_title(label))
    return _svg(parts, HEIGHT)


def bars(names: Sequence[str], values: Sequence[float], *, unit: str) -> str:
    """Return one horizontal bar for each value."""
    most = max([*values, 1e-12])
    left, row = 150, 24
    parts = []
    for place, (colour, name, value) in enumerate(zip(_colours(len(names)), names, values, strict=True)):
        y, width = place * row + 4, value / most * (WIDTH - left - 90)
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{row - 8}" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 13}">{value:.3g} {escape(unit)}</text>')
    return _svg(parts, row * len(names) + 8)


def legend(names: Sequence[str]) -> str:
    """Return the names with their colours."""
    return " ".join(
        f'<span class="key"><i style="background:{colour}"></i>{escape(name)}</span>'
        for colour, name in zip(_colours(len(names)), names, strict=True)
    )


def _colours(count: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(count)]


def _tick_x(x: float, text: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return f'{line}<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>'


def _tick_y(y: float, text: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _axis_title(text: str) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: int) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">{"".join(parts)}</svg>'

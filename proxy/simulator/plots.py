"""Line plots and bars as SVG text: no dependency, nothing to fetch."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .axes import Axis, log_axis

COLOURS = (
    "#8c8c8c", "#c49c94", "#e377c2", "#bcbd22", "#9467bd", "#1f77b4", "#2ca02c", "#ff7f0e", "#17becf",
    "#d62728",
)  # fmt: skip
WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 60, 24, 12, 44
SMOOTH = 300
"""Points of a distribution at most."""


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one policy, and the colour it has everywhere."""

    name: str
    values: Sequence[float]
    colour: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one policy, joined from left to right."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name; the last ones get the strongest."""
    used = COLOURS[-len(names) :] if len(names) <= len(COLOURS) else COLOURS
    return {name: used[place % len(used)] for place, name in enumerate(names)}


def distribution(series: Sequence[Series], *, label: str, limit: float | None = None) -> str:
    """Return the cumulative distributions of `series` over a logarithmic axis; `limit` is marked."""
    everything = [value for one in series for value in one.values]
    x = log_axis(label, [*everything, *([limit] if limit is not None else [])])
    y = Axis("share of requests", 0.0, 1.0, percent=True)
    return chart([Curve(one.name, _ranks(one.values), one.colour) for one in series], x, y, limit=limit)


def chart(
    curves: Sequence[Curve], x: Axis, y: Axis, *, limit: float | None = None, dots: bool = False
) -> str:
    """Return a plot; `limit` is a value of x that is marked, `dots` marks the points."""
    parts = [_across(y.place(value), text) for value, text in y.ticks()]
    parts += [_upright(x.place(value), text) for value, text in x.ticks()]
    if limit is not None:
        at = _x(x.place(limit))
        parts.append(f'<line class="limit" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for curve in curves:
        points = [(_x(x.place(right)), _y(y.place(up))) for right, up in curve.points]
        joined = " ".join(f"{right},{up}" for right, up in points)
        name = f"<title>{escape(curve.name)}</title>"
        parts.append(f'<polyline points="{joined}" stroke="{curve.colour}">{name}</polyline>')
        if dots:
            parts += [f'<circle cx="{a}" cy="{b}" r="3" fill="{curve.colour}"/>' for a, b in points]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>')
    up = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 14 {up})"'
    parts.append(f'<text x="14" y="{up}" text-anchor="middle" {turned}>{escape(y.label)}</text>')
    return svg(parts, HEIGHT)


def bars(series: Sequence[Series], *, unit: str) -> str:
    """Return one horizontal bar for the one value of each."""
    most = max([*(one.values[0] for one in series), 1e-12])
    left, row = 150, 24
    parts = []
    for place, one in enumerate(series):
        y, value = place * row + 4, one.values[0]
        width = value / most * (WIDTH - left - 90)
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(one.name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{row - 8}" fill="{one.colour}"/>')
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 13}">{value:.3g} {escape(unit)}</text>')
    return svg(parts, row * len(series) + 8)


def svg(parts: Sequence[str], height: int) -> str:
    """Return `parts` as a picture of the usual width."""
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">{"".join(parts)}</svg>'


def _ranks(values: Sequence[float]) -> list[tuple[float, float]]:
    ordered = sorted(values)
    step = max(len(ordered) // SMOOTH, 1)
    return [
        (value, (rank + 1) / len(ordered))
        for rank, value in enumerate(ordered)
        if rank % step == 0 or rank == len(ordered) - 1
    ]


def _x(place: float) -> float:
    return round(LEFT + place * (WIDTH - LEFT - RIGHT), 1)


def _y(place: float) -> float:
    return round(TOP + (1 - place) * (HEIGHT - TOP - BOTTOM), 1)


def _upright(place: float, text: str) -> str:
    x = _x(place)
    line = f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return f'{line}<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>'


def _across(place: float, text: str) -> str:
    y = _y(place)
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>'

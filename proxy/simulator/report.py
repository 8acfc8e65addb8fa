"""What is shown of a comparison: a self-contained HTML page, or one SVG picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .axes import zero_axis
from .outcome import Objective, Outcome
from .plots import HEIGHT, WIDTH, Curve, Series, bars, chart, colours, distribution
from .table import HEADER, row

_MARKS = """
svg { font: 12px system-ui, sans-serif } polyline { fill: none; stroke-width: 2; stroke-linejoin: round }
.grid { stroke: #e4e4e4 } .limit { stroke: #555; stroke-dasharray: 4 3 }
"""
_STYLE = f"""{_MARKS}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; color: #222 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }}
td, th {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }}
td:first-child, th:first-child {{ text-align: left }}
.wide {{ overflow-x: auto }} svg {{ max-width: 100%; height: auto }}
figure {{ display: inline-block; margin: 1rem 1rem 0 0; max-width: 100% }} figcaption {{ font-weight: 600 }}
.legend {{ position: sticky; top: 0; background: #fff; padding: .4rem 0 }}
.key {{ margin-right: 1rem; white-space: nowrap }}
.key i {{ display: inline-block; width: .8em; height: .8em; margin-right: .35em }}
"""


@dataclass(frozen=True, slots=True)
class AtLoad:
    """All policies under one load."""

    requests_s: float
    """How fast requests came, in the mean."""
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot with what it shows."""

    caption: str
    svg: str


def render_page(title: str, facts: Sequence[str], loads: Sequence[AtLoad], objective: Objective) -> str:
    """Return the page; `facts` say what was simulated, one line each."""
    names = [outcome.name for outcome in loads[0].outcomes]
    rows = [row(outcome, _named(outcome, load, loads)) for load in loads for outcome in load.outcomes]
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>",
        f"<ul>{''.join(f'<li>{escape(fact)}</li>' for fact in facts)}</ul>",
        _table(rows),
        _legend(names),
        *(_figure(figure) for figure in _over_load(loads, objective)),
    ]
    for load in loads:
        parts.append(f"<h2>{load.requests_s:.3g} requests/s</h2>" if len(loads) > 1 else "")
        parts += [_figure(figure) for figure in _at_load(load, objective)]
    return "".join([*parts, "</html>\n"])


def render_picture(loads: Sequence[AtLoad], objective: Objective) -> str:
    """Return one SVG: goodput by load, where there are several, and TTFT under the last one."""
    names = [outcome.name for outcome in loads[0].outcomes]
    last = _at_load(loads[-1], objective)[0]
    caption = last.caption if len(loads) == 1 else f"{last.caption} ({loads[-1].requests_s:.3g} requests/s)"
    figures = [*_over_load(loads, objective)[:1], Figure(caption, last.svg)]
    top = 28
    parts = [
        f'<g transform="translate({place * WIDTH} 0)"><text class="caption" x="60" y="18">'
        f'{escape(figure.caption)}</text><g transform="translate(0 {top})">{figure.svg}</g></g>'
        for place, figure in enumerate(figures)
    ]
    width = WIDTH * len(figures)
    in_a_row = (width - 60) // 120
    height = top + HEIGHT + 12 + 18 * -(-len(names) // in_a_row)
    keys = []
    for place, (name, colour) in enumerate(colours(names).items()):
        line, column = divmod(place, in_a_row)
        x, y = 60 + column * 120, top + HEIGHT + 8 + 18 * line
        keys.append(
            f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{x + 18}" y="{y + 10}">{escape(name)}</text>'
        )
    style = f"<style>{_MARKS} .caption {{ font-size: 14px; font-weight: 600 }}</style>"
    head = (
        f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    )
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return f"<svg {head}>{style}{paper}{''.join([*parts, *keys])}</svg>\n"


def _over_load(loads: Sequence[AtLoad], objective: Objective) -> list[Figure]:
    if len(loads) < 2:
        return []
    names = [outcome.name for outcome in loads[0].outcomes]
    x = zero_axis("requests/s that come", [load.requests_s for load in loads])

    def curves(values: Sequence[Sequence[float]]) -> list[Curve]:
        return [
            Curve(name, [(load.requests_s, value) for load, value in zip(loads, of_one, strict=True)], colour)
            for (name, colour), of_one in zip(colours(names).items(), zip(*values, strict=True), strict=True)
        ]

    good = [[outcome.goodput for outcome in load.outcomes] for load in loads]
    hits = [[outcome.hit_rate for outcome in load.outcomes] for load in loads]
    rate = zero_axis("good requests/s", [value for of_load in good for value in of_load])
    share = zero_axis("share of prompt tokens", [value for of_load in hits for value in of_load])
    return [
        Figure(_goodput_caption(objective), chart(curves(good), x, rate, dots=True)),
        Figure("Prompt tokens that were cached, by load", chart(curves(hits), x, share, dots=True)),
    ]


def _at_load(load: AtLoad, objective: Objective) -> list[Figure]:
    outcomes = load.outcomes
    colour = colours([outcome.name for outcome in outcomes])

    def series(values: Sequence[Sequence[float]]) -> list[Series]:
        return [
            Series(outcome.name, of_one, colour[outcome.name])
            for outcome, of_one in zip(outcomes, values, strict=True)
        ]

    ttft = distribution(
        series([outcome.ttfts_s for outcome in outcomes]), label="TTFT, s", limit=objective.ttft_s
    )
    tpot = distribution(
        series([[value * 1000 for value in outcome.tpots_s] for outcome in outcomes]),
        label="TPOT, ms",
        limit=objective.tpot_s * 1000,
    )
    return [
        Figure("Time to the first token; dashed: the objective", ttft),
        Figure("Time between tokens; dashed: the objective", tpot),
        Figure(_goodput_caption(objective), bars(series([[o.goodput] for o in outcomes]), unit="/s")),
        Figure("TTFT, 90th percentile", bars(series([[o.ttft_s.p90] for o in outcomes]), unit="s")),
        Figure(
            "Prompt tokens that were cached", bars(series([[o.hit_rate * 100] for o in outcomes]), unit="%")
        ),
        Figure(
            "Tokens computed by the busiest prefill worker, over the mean",
            bars(series([[o.prefill_imbalance] for o in outcomes]), unit="x"),
        ),
        Figure(
            "Tokens decoded by the busiest decode worker, over the mean",
            bars(series([[o.decode_imbalance] for o in outcomes]), unit="x"),
        ),
    ]


def _goodput_caption(objective: Objective) -> str:
    return f"Goodput: TTFT ≤ {objective.ttft_s:g} s and TPOT ≤ {objective.tpot_s * 1000:g} ms"


def _named(outcome: Outcome, load: AtLoad, loads: Sequence[AtLoad]) -> str:
    return outcome.name if len(loads) == 1 else f"{outcome.name} {load.requests_s:.3g}/s"


def _legend(names: Sequence[str]) -> str:
    keys = (
        f'<span class="key"><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in colours(names).items()
    )
    return f'<p class="legend">{" ".join(keys)}</p>'


def _figure(figure: Figure) -> str:
    return f"<figure><figcaption>{escape(figure.caption)}</figcaption>{figure.svg}</figure>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADER)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'

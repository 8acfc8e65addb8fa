"""A self-contained HTML page of one comparison: the table, the distributions, the goodput."""

from collections.abc import Sequence
from html import escape

from .outcome import Objective, Outcome
from .plots import Series, bars, distribution, legend
from .table import HEADER, row

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
td, th { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
figure { display: inline-block; margin: 1rem 1rem 0 0 } figcaption { font-weight: 600 }
svg { font: 12px system-ui, sans-serif; max-width: 100% } polyline { fill: none; stroke-width: 1.8 }
.grid { stroke: #e4e4e4 } .limit { stroke: #888; stroke-dasharray: 4 3 }
.key { margin-right: 1rem; white-space: nowrap }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .35em }
"""


def render_page(title: str, facts: Sequence[str], outcomes: Sequence[Outcome], objective: Objective) -> str:
    """Return the page; `facts` say what was simulated, one line each."""
    names = [outcome.name for outcome in outcomes]
    ttft = distribution(
        [Series(outcome.name, outcome.ttfts_s) for outcome in outcomes],
        label="TTFT, s",
        limit=objective.ttft_s,
    )
    tpot = distribution(
        [Series(outcome.name, outcome.tpots_s) for outcome in outcomes],
        label="TPOT, s",
        limit=objective.tpot_s,
    )
    goodput = bars(names, [outcome.goodput for outcome in outcomes], unit="/s")
    p90 = bars(names, [outcome.ttft_s.p90 for outcome in outcomes], unit="s")
    figures = (
        ("Share of requests with a first token by then", ttft),
        ("Share of requests with so much time between tokens", tpot),
        (f"Goodput: TTFT ≤ {objective.ttft_s:g} s and TPOT ≤ {objective.tpot_s * 1000:g} ms", goodput),
        ("TTFT, 90th percentile", p90),
    )
    return "".join(
        (
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>",
            f"<ul>{''.join(f'<li>{escape(fact)}</li>' for fact in facts)}</ul>",
            _table([row(outcome) for outcome in outcomes]),
            f"<p>{legend(names)}</p>",
            *(f"<figure><figcaption>{escape(text)}</figcaption>{svg}</figure>" for text, svg in figures),
            "</html>\n",
        )
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADER)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

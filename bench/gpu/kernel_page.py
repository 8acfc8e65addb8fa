"""The kernel table `bench/KERNELS.md`: each operation's error by number format, a GPU's share of its limit.

Errors are those of the Triton form against the torch reference, through Triton's CPU interpreter. Shares come
from the files that runs on GPUs have left in `results/`; a column for each, none until there is one.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .case import Case
from .cases import attention, elementwise
from .error import INTERPRETED_TOLERANCE
from .sizes import SMALL
from .table import KERNELS, Builder, inputs

PAGE = Path(__file__).parents[1] / "KERNELS.md"
F32, F16 = torch.float32, torch.float16

OTHER_FORMATS: list[Builder] = [
    *(lambda make, s, dtype=dtype: elementwise.norm(make, 3, 100, dtype) for dtype in (F32, F16)),
    *(lambda make, s, dtype=dtype: elementwise.added_norm(make, 3, 100, dtype) for dtype in (F32, F16)),
    *(lambda make, s, dtype=dtype: elementwise.head_norm(make, 3, 3, 100, dtype) for dtype in (F32, F16)),
    lambda make, s: elementwise.interleaved_rope(make, 5, 3, 12, F32),
    lambda make, s: elementwise.halves_rope(make, 5, 3, 12, F32),
    lambda make, s: elementwise.activation(make, 19, 130, F32),
    lambda make, s: elementwise.quantised_activation(make, 19, 130, F32),
    lambda make, s: attention.dense(make, 2, 2, 37, 37, dim=24, v_dim=20, causal=True, dtype=F32),
    lambda make, s: attention.merge(make, 3, 37, 20, F32),
    lambda make, s: attention.mla_decode(make, [100, 7], 2, heads=4, rank=64, rope=16, dtype=F32),
    lambda make, s: attention.gqa_decode(make, [100, 7], 2, heads=4, kv_heads=2, dim=16, dtype=F32),
]
"""What the table of DeepSeek-R1's kernels has in bfloat16 alone"""


@dataclass(kw_only=True)
class Row:
    """One operation in one number format."""

    operation: str
    format: torch.dtype
    shapes: list[str] = field(default_factory=list)
    error: float = 0.0
    """The largest of the shapes"""

    @property
    def right(self) -> bool:
        """Whether every shape equals its reference."""
        return self.error <= INTERPRETED_TOLERANCE[self.format]


def check(builders: list[Builder]) -> list[Row]:
    """Compare both forms of every case; rows in the order in which operations first come."""
    rows: dict[tuple[str, torch.dtype], Row] = {}
    for build in builders:
        case: Case = build(inputs(torch.device("cpu")), SMALL)
        key = (case.name, case.format)
        row = rows.setdefault(key, Row(operation=case.name, format=case.format))
        row.shapes.append(case.shape)
        row.error = max(row.error, case.error())
    order = list(dict.fromkeys(operation for operation, _ in rows))
    return sorted(rows.values(), key=lambda row: order.index(row.operation))


def shares_of(record: Path) -> tuple[str, dict[str, list[float]]]:
    """Return a GPU's name and, by operation, which shares of its limit the shapes reached."""
    content = json.loads(record.read_text())
    shares: dict[str, list[float]] = defaultdict(list)
    for kernel in content["kernels"]:
        shares[kernel["operation"]].append(kernel["limit_us"] / kernel["us"])
    return content["device"], shares


def page(rows: list[Row], gpus: list[tuple[str, dict[str, list[float]]]]) -> str:
    """Return the table as markdown."""
    columns = [name for name, _ in gpus] or ["share of a GPU's limit"]
    head = ["operation", "format", "shapes", "error", "tolerance", *columns]
    lines = [_line(head), "|" + "---|" * len(head)]
    first_of = {row.operation: row for row in reversed(rows)}
    for row in rows:
        cells = [row.operation, str(row.format).removeprefix("torch."), str(len(row.shapes))]
        cells += [f"{row.error:.1e}", f"{INTERPRETED_TOLERANCE[row.format]:.0e}"]
        # A GPU runs an operation in the first of its formats alone.
        found = [shares[row.operation] if first_of[row.operation] is row else [] for _, shares in gpus]
        lines.append(_line([*cells, *(map(_share, found or [[]]))]))
    return "\n".join([*_INTRODUCTION, *lines]) + "\n"


def write_page() -> int:
    """Check every kernel, write the table; the exit status says whether all are within their tolerance."""
    with torch.inference_mode():
        rows = check([*KERNELS, *OTHER_FORMATS])
    records = sorted((Path(__file__).parent / "results").glob("*.json"))
    PAGE.write_text(page(rows, [shares_of(record) for record in records]))
    wrong = [f"{row.operation} {row.format}" for row in rows if not row.right]
    print(f"written to {PAGE}")
    print(f"gpu: wrong results: {'; '.join(wrong)}" if wrong else "gpu: every kernel equals its reference")
    return 1 if wrong else 0


def _share(found: list[float]) -> str:
    """The range over the shapes."""
    if not found:
        return ""
    low, high = round(100 * min(found)), round(100 * max(found))
    return f"{low}%" if low == high else f"{low}-{high}%"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_INTRODUCTION = (
    "# Kernels",
    "",
    "Every operation of `kernels/` that has a Triton form. Regenerate with `make bench-gpu ARGS=--table`.",
    "",
    "Error: the norm of the difference between the Triton form and the torch reference over the norm of the",
    "reference, the largest of the shapes, through Triton's CPU interpreter. It truncates to float16",
    "where a GPU rounds; hence its tolerances. Last column: what a GPU reached of the limit that its copy",
    "and matrix rates set, by `make bench-gpu` on it, in the first of an operation's formats; empty until",
    "there is a file of a GPU in `bench/gpu/results/`.",
    "",
)

"""The kernel table has a row an operation and number format, and a column a GPU."""

import json
from pathlib import Path

import pytest
import torch

from baton.bench.gpu.cases import elementwise
from baton.bench.gpu.error import INTERPRETED_TOLERANCE
from baton.bench.gpu.kernel_page import OTHER_FORMATS, Row, check, page, shares_of
from baton.bench.gpu.table import Builder

ALLOWED = f"{INTERPRETED_TOLERANCE[torch.bfloat16]:.0e}"
NORM = Row(operation="rms_norm", format=torch.bfloat16, shapes=["2 x 3", "4 x 5"], error=6.8e-3)
WIDE_NORM = Row(operation="rms_norm", format=torch.float32, shapes=["2 x 3"], error=2e-5)


def test_a_row_gathers_the_shapes_of_one_format() -> None:
    def norm(tokens: int, dtype: torch.dtype) -> Builder:
        return lambda make, s: elementwise.norm(make, tokens, 7, dtype)

    rows = check(
        [
            norm(2, torch.float32),
            lambda make, s: elementwise.activation(make, 2, 8, torch.float32),
            norm(3, torch.float32),
            norm(1, torch.float16),
        ]
    )

    assert [(row.operation, row.format, len(row.shapes)) for row in rows] == [
        ("rms_norm", torch.float32, 2),
        ("rms_norm", torch.float16, 1),
        ("silu_mul", torch.float32, 1),
    ]
    assert all(row.right for row in rows)


def test_the_column_is_empty_until_a_gpu_ran() -> None:
    assert f"| rms_norm | bfloat16 | 2 | 6.8e-03 | {ALLOWED} |  |" in page([NORM], [])


def test_a_gpu_s_share_is_the_range_over_its_shapes(tmp_path: Path) -> None:
    record = tmp_path / "gpu.json"
    kernels = [{"operation": "rms_norm", "us": us, "limit_us": 5.0} for us in (10.0, 6.25)]
    record.write_text(json.dumps({"device": "NVIDIA H200", "kernels": kernels}))

    text = page([NORM, WIDE_NORM], [shares_of(record)])

    assert "| tolerance | NVIDIA H200 |" in text
    assert f"| {ALLOWED} | 50-80% |" in text
    assert "| rms_norm | float32 | 1 | 2.0e-05 |" in text
    assert text.count("%") == 1  # nothing in the row of another format


@pytest.mark.parametrize("builder", [OTHER_FORMATS[0], OTHER_FORMATS[-1]])
def test_other_formats_are_within_their_tolerance(builder: Builder) -> None:
    [row] = check([builder])

    assert row.right

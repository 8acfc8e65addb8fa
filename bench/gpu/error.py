"""One error metric for every kernel, and what each number format may show of it.

The metric is the norm of the difference over the norm of the reference, in float64. It does not depend on how
many values there are, and neither a wrong row nor a NaN hides in it.
"""

import torch
from torch import Tensor

TOLERANCE = {
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 6e-3,
    torch.float8_e4m3fn: 1e-2,
    torch.int64: 1e-9,
}
"""On a GPU, by the format in which results are held; sums are in float32 throughout.

A bfloat16 result is off by 1.1e-3 when it was rounded once and by a few times that when its parts were, as
those of attention's reference are. FP8 results are compared after dequantisation, and only values next to a
rounding boundary may differ.
"""

INTERPRETED_TOLERANCE = {**TOLERANCE, torch.float16: 2e-3}
"""The CPU interpreter truncates to float16 where a GPU rounds: results are off by up to a last place."""


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """`|actual - expected| / |expected|`; infinite where a NaN or an infinity stands in another's place."""
    assert actual.shape == expected.shape, f"{list(actual.shape)} against {list(expected.shape)}"
    wide, right = actual.double().cpu(), expected.double().cpu()
    alike = wide.isfinite() & right.isfinite() | (wide == right) | wide.isnan() & right.isnan()
    if not alike.all():
        return float("inf")
    difference = torch.where(right.isfinite(), wide - right, 0.0)
    norm = float(torch.where(right.isfinite(), right, 0.0).norm())
    return float(difference.norm()) / norm if norm else float(difference.norm())

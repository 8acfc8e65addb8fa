"""`write_rows` of `kv_rows.py` in C++."""

import torch
from torch import Tensor

from . import kv_rows as in_torch
from .by_device import reference
from .native.library import are_plain, function

_WRITE = function("write_rows", "pppiiiiii")


def write_rows(pool: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write values into the pool."""
    if not are_plain(pool, values) or not rows.is_contiguous():
        return reference(in_torch.write_rows)(pool, rows, values)
    each = values if values.dim() == 3 else values.unsqueeze(1)  # rows of a token
    tokens, inner, width = each.shape
    _WRITE(
        pool.data_ptr(), rows.data_ptr(), each.data_ptr(), *each.stride()[:2], tokens, inner, width,
        torch.get_num_threads(),
    )  # fmt: skip
    return None

"""`write_rows` of `kv_rows.py` in C++."""

import torch
from torch import Tensor

from . import kv_rows as in_torch
from .by_device import reference
from .native.library import are_plain, function

_WRITE = function("write_rows", "pppiiii")


def write_rows(pool: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write values into the pool."""
    if not are_plain(pool, values) or not rows.is_contiguous():
        return reference(in_torch.write_rows)(pool, rows, values)
    count, width = values.shape
    _WRITE(
        pool.data_ptr(), rows.data_ptr(), values.data_ptr(), values.stride(0), count, width,
        torch.get_num_threads(),
    )  # fmt: skip
    return None

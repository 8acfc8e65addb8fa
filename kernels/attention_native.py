"""`attend` of `attention.py` in C++."""

import ctypes

import torch
from torch import Tensor

from . import attention as in_torch
from .by_device import reference
from .native.library import are_plain, function

_ATTEND = function("attend", "pppppppppiiiiiifii")
_WIDEST = function("attend_widest", "")


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Attend; also return the log of each query's normaliser."""
    if q.shape[-1] > _WIDEST() or not are_plain(q, k, v):
        return reference(in_torch.attend)(q, k, v, scale=scale, causal=causal)
    kv_heads, group, queries, dim = q.shape
    # Token by token, as whoever projects what heads have attended to wants it.
    out = torch.empty(queries, kv_heads, group, v.shape[-1]).permute(1, 2, 0, 3)
    logs = torch.empty(kv_heads, group, queries)
    steps = [(ctypes.c_int64 * 3)(*tensor.stride()[:-1]) for tensor in (q, k, v, out)]
    _ATTEND(
        q.data_ptr(),
        ctypes.addressof(steps[0]),
        k.data_ptr(),
        ctypes.addressof(steps[1]),
        v.data_ptr(),
        ctypes.addressof(steps[2]),
        out.data_ptr(),
        ctypes.addressof(steps[3]),
        logs.data_ptr(),
        kv_heads,
        group,
        queries,
        k.shape[1],
        dim,
        v.shape[-1],
        scale,
        int(causal),
        torch.get_num_threads(),
    )
    return out, logs

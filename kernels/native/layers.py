"""What the layers of `decode_layers.h` take: structures of addresses and sizes."""

import ctypes

import torch
from torch import Tensor

from ..paged_step import PagedRows

FLOATS = ctypes.c_void_p


class NativeStep(ctypes.Structure):
    """`Step` of `decode_layers.h`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("token_rows", "turns", "tables", "lengths")),
        *((name, ctypes.c_int64) for name in ("table_stride", "batch", "threads")),
    )


class NativePool(ctypes.Structure):
    """`Pool` of `decode_stack.cpp`."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("layer_stride", "block_stride", "block_tokens")),
    )

    @classmethod
    def of(cls, pool: Tensor) -> "NativePool":
        """Point to a pool, `[blocks, layers, ..., block_tokens, values]`, which the caller keeps alive."""
        return cls(pool.data_ptr(), pool.stride(1), pool.stride(0), pool.shape[-2])


def native_step(step: PagedRows) -> NativeStep:
    """Point to a step, which the caller keeps alive."""
    return NativeStep(
        step.rows.data_ptr(),
        step.turns.data_ptr(),
        step.tables.data_ptr(),
        step.lengths.data_ptr(),
        step.tables.stride(0),
        step.tables.shape[0],
        torch.get_num_threads(),
    )


def takes_step(step: PagedRows) -> bool:
    """Whether the layers take it: dense numbers of the kinds that a step has."""
    return (
        step.lengths.dtype is torch.int32
        and step.rows.is_contiguous()
        and step.turns.is_contiguous()
        and step.tables.stride(1) == 1
    )

"""What the layers of `decode_layers.cpp` take: structures of addresses and sizes."""

import ctypes

import torch

from ..mla_layer import PagedRows

FLOATS = ctypes.c_void_p


class NativeStep(ctypes.Structure):
    """`Step` of `decode_layers.cpp`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("token_rows", "turns", "tables", "lengths")),
        *((name, ctypes.c_int64) for name in ("table_stride", "batch", "threads")),
    )


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

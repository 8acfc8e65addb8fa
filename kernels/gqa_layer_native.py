"""`gqa_decode_layer` of `gqa_layer.py` in C++."""

import ctypes

import torch
from torch import Tensor

from . import gqa_layer as in_torch
from .by_device import reference
from .gqa_layer import GqaLayer
from .native.layers import FLOATS, native_step, takes_step
from .native.library import are_plain, function
from .native.once import once_each
from .native.panels import can_pack, panels_of
from .paged_step import PagedRows

_LAYER = function("gqa_decode_layer", "pppppiip")


class _Layer(ctypes.Structure):
    """`GqaLayer` of `decode_layers.h`."""

    _fields_ = (
        *((name, FLOATS) for name in ("qkv", "qk_norm", "out")),
        *((name, ctypes.c_int64) for name in ("hidden", "heads", "kv_heads", "dim")),
        ("eps", ctypes.c_double),
        ("scale", ctypes.c_double),
    )


_Described = tuple[_Layer, list[Tensor | None]]
"""A layer, and the tensors that it points to"""


def gqa_decode_layer(x: Tensor, pool: Tensor, layer: GqaLayer, step: PagedRows) -> Tensor:
    """Write the tokens' KV and attend."""
    own = described(layer)
    if own is None or not (are_plain(x, pool) and x.is_contiguous() and takes_step(step)):
        return reference(in_torch.gqa_decode_layer)(x, pool, layer, step)
    out = torch.empty_like(x)
    blocks = pool.stride()
    _LAYER(
        ctypes.addressof(own),
        ctypes.addressof(pointed := native_step(step)),
        x.data_ptr(),
        pool.data_ptr(),
        pool.data_ptr() + step.layer * blocks[1] * 4,
        blocks[0],
        pool.shape[4],
        out.data_ptr(),
    )
    del pointed
    return out


def described(layer: GqaLayer) -> ctypes.Structure | None:
    """Return the layer in C, which lives as long as `layer`; None where a weight is not taken."""
    found = _describe(layer)
    return None if found is None else found[0]


@once_each
def _describe(layer: GqaLayer) -> _Described | None:
    qkv, out = layer.qkv, layer.out
    if not (isinstance(qkv, Tensor) and isinstance(out, Tensor) and can_pack(qkv, layer.qk_norm, out)):
        return None
    read: list[Tensor | None] = [panels_of(qkv), layer.qk_norm.contiguous(), panels_of(out)]
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in read]
    sizes = (layer.qkv.shape[0], layer.heads, layer.kv_heads, layer.qk_norm.shape[1])
    return _Layer(*addresses, *sizes, layer.eps, layer.scale), read

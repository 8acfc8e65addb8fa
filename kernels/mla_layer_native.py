"""`mla_decode_layer` of `mla_layer.py` in C++."""

import ctypes

import torch
from torch import Tensor

from . import mla_layer as in_torch
from .by_device import reference
from .mla_layer import MlaLayer
from .native.layers import FLOATS, native_step, takes_step
from .native.library import are_plain, function
from .native.once import once_each
from .native.panels import can_pack, panels_of
from .paged_step import PagedRows

_LAYER = function("mla_decode_layer", "pppppiip")
_MATRICES = ("first", "q_norm", "q_b", "kv_norm", "absorb_keys", "absorb_values", "out")
_SIZES = ("hidden", "query_width", "heads", "nope", "rank", "rope", "v")


class _Layer(ctypes.Structure):
    """`MlaLayer` of `decode_layers.h`."""

    _fields_ = (
        *((name, FLOATS) for name in _MATRICES),
        *((name, ctypes.c_int64) for name in _SIZES),
        ("eps", ctypes.c_double),
        ("scale", ctypes.c_double),
    )


_Described = tuple[_Layer, list[Tensor | None]]
"""A layer, and the tensors that it points to"""


def mla_decode_layer(x: Tensor, pool: Tensor, layer: MlaLayer, step: PagedRows) -> Tensor:
    """Write the tokens' KV and attend."""
    own = described(layer)
    if own is None or not (are_plain(x, pool) and x.is_contiguous() and takes_step(step)):
        return reference(in_torch.mla_decode_layer)(x, pool, layer, step)
    out = torch.empty_like(x)
    blocks = pool.stride()
    _LAYER(
        ctypes.addressof(own),
        ctypes.addressof(pointed := native_step(step)),
        x.data_ptr(),
        pool.data_ptr(),
        pool.data_ptr() + step.layer * blocks[1] * 4,
        blocks[0],
        pool.shape[2],
        out.data_ptr(),
    )
    del pointed
    return out


def described(layer: MlaLayer) -> ctypes.Structure | None:
    """Return the layer in C, which lives as long as `layer`; None where a weight is not taken."""
    found = _describe(layer)
    return None if found is None else found[0]


@once_each
def _describe(layer: MlaLayer) -> _Described | None:
    matrices = [layer.first, layer.q_b, layer.absorb_keys, layer.absorb_values, layer.out]
    norms = [layer.q_norm, layer.kv_norm]
    if not all(weight is None or can_pack(weight) for weight in (*matrices, *norms)):
        return None
    first, q_b, keys, values, out = (
        panels_of(matrix) if isinstance(matrix, Tensor) else None for matrix in matrices
    )
    q_norm, kv_norm = (None if norm is None else norm.contiguous() for norm in norms)
    read = [first, q_norm, q_b, kv_norm, keys, values, out]
    heads, nope, rank = layer.absorb_keys.shape
    sizes = (layer.first.shape[0], layer.query_width, heads, nope, rank, layer.latent_dim - rank)
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in read]
    return _Layer(*addresses, *sizes, layer.absorb_values.shape[2], layer.eps, layer.scale), read

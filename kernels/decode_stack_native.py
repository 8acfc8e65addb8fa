"""`decode_stack.py` in C++."""

import ctypes

from torch import Tensor

from . import decode_stack as in_torch
from . import gqa_layer_native, mla_layer_native
from .by_device import reference
from .decode_stack import DenseWeights, MoeWeights, Stack, StackLayer
from .gate_native import can_choose
from .mla_layer import MlaLayer
from .native.layers import FLOATS, NativePool, native_step, takes_step
from .native.library import are_plain, function
from .native.once import once_each
from .native.panels import can_pack, panels_of
from .paged_step import PagedStep

_STACK = function("decode_stack", "pipipppid")


class _FeedForward(ctypes.Structure):
    """`FeedForward` of `feed_forward.h`."""

    _fields_ = (
        *((name, FLOATS) for name in ("gate_up", "down", "router", "bias", "shared_gate_up", "shared_down")),
        *((name, ctypes.c_int64) for name in ("width", "experts", "top_k", "groups", "top_groups")),
        *((name, ctypes.c_int64) for name in ("normalises", "shared_width")),
        ("scale", ctypes.c_double),
    )


class _Layer(ctypes.Structure):
    """`Layer` of `decode_stack.cpp`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("mla", "gqa", "mlp_norm", "next_norm")),
        ("mlp", _FeedForward),
    )


class _Described:
    """The layers of a stack in C, and what keeps alive what they point to."""

    def __init__(self, count: int) -> None:
        self.layers = (_Layer * count)()
        self._kept: list[object] = []

    def address(self, tensor: Tensor | None) -> int | None:
        """Keep a tensor and return where it lies."""
        self._kept.append(tensor)
        return None if tensor is None else tensor.data_ptr()

    def address_of(self, structure: ctypes.Structure) -> int:
        """Keep a structure and return where it lies."""
        self._kept.append(structure)
        return ctypes.addressof(structure)


def decode_stack(x: Tensor, stream: Tensor, pool: Tensor, stack: Stack, step: PagedStep) -> Tensor:
    """Compute all layers."""
    described, rows = _describe(stack), step.rows_of(0)
    dense = x.is_contiguous() and stream.is_contiguous() and pool.is_contiguous()
    if described is None or not (dense and are_plain(x, stream, pool) and takes_step(rows)):
        return reference(in_torch.decode_stack)(x, stream, pool, stack, step)
    out = x.clone()
    pointed = native_step(rows), NativePool.of(pool)
    _STACK(
        ctypes.addressof(described.layers),
        len(stack.layers),
        ctypes.addressof(pointed[0]),
        step.token_rows.stride(0),
        ctypes.addressof(pointed[1]),
        out.data_ptr(),
        stream.data_ptr(),
        x.shape[1],
        stack.eps,
    )
    return out


@once_each
def _describe(stack: Stack) -> _Described | None:
    """Return the layers in C; None where a weight is not taken."""
    described = _Described(len(stack.layers))
    for place, layer in enumerate(stack.layers):
        if not _describe_layer(described, described.layers[place], layer):
            return None
    return described


def _describe_layer(described: _Described, target: _Layer, layer: StackLayer) -> bool:
    attention = layer.attention
    form = mla_layer_native if isinstance(attention, MlaLayer) else gqa_layer_native
    own = form.described(attention)
    if own is None or not can_pack(layer.mlp_norm, layer.next_norm):
        return False
    setattr(target, "mla" if isinstance(attention, MlaLayer) else "gqa", described.address_of(own))
    target.mlp_norm = described.address(layer.mlp_norm.contiguous())
    target.next_norm = described.address(layer.next_norm.contiguous())
    if isinstance(layer.mlp, DenseWeights):
        return _describe_dense(described, target.mlp, layer.mlp)
    return _describe_experts(described, target.mlp, layer.mlp)


def _describe_dense(described: _Described, target: _FeedForward, mlp: DenseWeights) -> bool:
    gate_up, down = mlp.gate_up, mlp.down
    if not (isinstance(gate_up, Tensor) and isinstance(down, Tensor) and can_pack(gate_up, down)):
        return False
    target.gate_up, target.down = (described.address(panels_of(matrix)) for matrix in (gate_up, down))
    target.width = down.shape[0]
    return True


def _describe_experts(described: _Described, target: _FeedForward, mlp: MoeWeights) -> bool:
    experts, gate, count = mlp.experts, mlp.gate, mlp.router.shape[1]
    weights = [mlp.router, experts.gate_up, experts.down, *([] if gate.bias is None else [gate.bias])]
    if (
        experts.grouped
        or experts.owned != range(count)
        or not (can_pack(*weights) and can_choose(gate, count))
    ):
        return False
    target.router = described.address(panels_of(mlp.router))
    target.bias = described.address(None if gate.bias is None else gate.bias.contiguous())
    target.gate_up = described.address(panels_of(experts.gate_up, outputs_first=True))
    target.down = described.address(panels_of(experts.down, outputs_first=True))
    target.width, target.experts = experts.down.shape[2], count
    target.top_k, target.groups, target.top_groups = gate.top_k, gate.num_groups, gate.top_groups
    target.normalises, target.scale = gate.normalise, gate.scale
    return mlp.shared is None or _describe_shared(described, target, mlp.shared)


def _describe_shared(described: _Described, target: _FeedForward, shared: DenseWeights) -> bool:
    own = _FeedForward()
    if not _describe_dense(described, own, shared):
        return False
    target.shared_gate_up, target.shared_down, target.shared_width = own.gate_up, own.down, own.width
    return True

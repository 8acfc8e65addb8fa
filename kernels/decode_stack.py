"""All layers of a decoder for one token a sequence: what a CPU does in a single call."""

from dataclasses import dataclass

from torch import Tensor

from .by_device import on_cpu
from .gate import Gate
from .gqa_layer import GqaLayer, gqa_decode_layer
from .linear import Weight, gated_mlp, multiply
from .mla_layer import MlaLayer, mla_decode_layer
from .moe.experts import ExpertWeights
from .moe.routed import routed_experts
from .paged_step import PagedRows, PagedStep
from .rms_norm import add_rms_norm


@dataclass(frozen=True, slots=True)
class DenseWeights:
    """A gated MLP."""

    gate_up: Weight
    """[hidden, 2 * width], gate first"""
    down: Weight
    """[width, hidden]"""


@dataclass(frozen=True, slots=True)
class MoeWeights:
    """Experts of which all are here, and the shared ones of all tokens."""

    router: Tensor
    """[hidden, experts] float32"""
    gate: Gate
    experts: ExpertWeights
    shared: DenseWeights | None


@dataclass(frozen=True, slots=True)
class StackLayer:
    """One layer of many."""

    attention: MlaLayer | GqaLayer
    mlp_norm: Tensor
    mlp: DenseWeights | MoeWeights
    next_norm: Tensor
    """Of what follows the layer"""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Stack:
    """The layers, all with the same kind of attention."""

    layers: tuple[StackLayer, ...]
    eps: float
    """Of the norms between attention and MLP"""


@on_cpu
def decode_stack(x: Tensor, stream: Tensor, pool: Tensor, stack: Stack, step: PagedStep) -> Tensor:
    """Write the tokens' KV in all layers and attend; return the input of what follows them, normalised.

    x        [batch, hidden], normalised
    stream   [batch, hidden], which layers add to in place
    pool     as the kind of attention has it
    returns  [batch, hidden]
    """
    for index, layer in enumerate(stack.layers):
        attended = _attend(x, pool, layer.attention, step.rows_of(index))
        x = add_rms_norm(attended, stream, layer.mlp_norm, stack.eps)
        x = add_rms_norm(_feed_forward(x, layer.mlp), stream, layer.next_norm, stack.eps)
    return x


def _attend(x: Tensor, pool: Tensor, layer: MlaLayer | GqaLayer, rows: PagedRows) -> Tensor:
    if isinstance(layer, MlaLayer):
        return mla_decode_layer(x, pool, layer, rows)
    return gqa_decode_layer(x, pool, layer, rows)


def _feed_forward(x: Tensor, mlp: DenseWeights | MoeWeights) -> Tensor:
    if isinstance(mlp, DenseWeights):
        return gated_mlp(x, mlp.gate_up, mlp.down)
    weights, ids = mlp.gate(multiply(x.float(), mlp.router))
    sums = routed_experts(x, ids, weights, mlp.experts)
    if mlp.shared is None:
        return sums
    return sums.add_(gated_mlp(x, mlp.shared.gate_up, mlp.shared.down))

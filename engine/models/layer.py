"""The weights of a decoder: one layer of many, and what surrounds them."""

from dataclasses import dataclass

from torch import Tensor

from ...kernels.decode_stack import Stack, StackLayer
from .attention import Attention
from .mlp import Mlp


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: each half reads the normalised stream and is added to it."""

    input_norm: Tensor
    attention: Attention
    mlp_norm: Tensor
    mlp: Mlp


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """What surrounds the layers."""

    embedding: Tensor
    """[vocab, hidden]"""
    norm: Tensor
    """[hidden]"""
    head: Tensor
    """[hidden, vocab]"""
    rope: Tensor
    """[positions, dim / 2] complex64"""


def stack_of(layers: list[Layer], norm: Tensor, eps: float) -> Stack | None:
    """Return the layers and the norm behind them as one operation; None where an MLP is not all here."""
    norms = [*(layer.input_norm for layer in layers[1:]), norm]
    found = []
    for layer, following in zip(layers, norms, strict=True):
        mlp = layer.mlp.own_weights
        if mlp is None:
            return None
        found.append(StackLayer(layer.attention.weights, layer.mlp_norm, mlp, following))
    return Stack(tuple(found), eps)

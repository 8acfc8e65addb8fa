"""The weights of a decoder: one layer of many, and what surrounds them."""

from dataclasses import dataclass

from torch import Tensor

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

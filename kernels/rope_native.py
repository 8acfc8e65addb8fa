"""`rope.py` in C++."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import rope as in_torch
from .by_device import reference
from .native.library import are_plain, function

_INTERLEAVED = function("rope_interleaved", "piipiiiii")
_HALVES = function("rope_halves", "piipiiiii")


def rope_interleaved_(x: Tensor, turns: Tensor) -> None:
    """Rotate pairs (0, 1), (2, 3), ... in place."""
    if _takes(x, turns):
        return _rotate(_INTERLEAVED, x, turns)
    return reference(in_torch.rope_interleaved_)(x, turns)


def rope_halves_(x: Tensor, turns: Tensor) -> None:
    """Rotate pairs (i, i + dim / 2) in place."""
    if _takes(x, turns):
        return _rotate(_HALVES, x, turns)
    return reference(in_torch.rope_halves_)(x, turns)


def _takes(x: Tensor, turns: Tensor) -> bool:
    """One turn a token, the same for all its heads; one token may have that of all."""
    if x.dim() not in {2, 3} or turns.dim() != x.dim() or turns.dtype is not torch.complex64:
        return False
    by_token = turns.shape[0] == x.shape[0] and (turns.dim() == 2 or turns.shape[1] == 1)
    return by_token and turns.stride(-1) == 1 and are_plain(x)


def _rotate(rotate: Callable[..., Any], x: Tensor, turns: Tensor) -> None:
    heads, step = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
    turn_step = 2 * turns.stride(0)
    rotate(
        x.data_ptr(),
        x.stride(0),
        step,
        turns.data_ptr(),
        turn_step,
        x.shape[0],
        heads,
        x.shape[-1] // 2,
        torch.get_num_threads(),
    )

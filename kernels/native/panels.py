"""Weights as the products of `product.cpp` read them: panels of columns side by side.

A product takes some columns of all rows of a weight. Where these are apart, memory gives them at a fraction
of its speed; a panel lies in one run. Panels are made when a weight is first used and kept beside it as long
as it lives: weights take twice their memory on a CPU.
"""

from weakref import ReferenceType, ref

import torch
from torch import Tensor

from .library import function

_PACK = function("pack_weight", "piiipiii")
_PANEL_COLUMNS = function("panel_columns", "")
_KEPT: dict[int, tuple[ReferenceType[Tensor], int, Tensor]] = {}
"""By the weight's identity: the weight, its version then, its panels"""


def panels_of(weight: Tensor, *, outputs_first: bool = False) -> Tensor:
    """Return the panels of a weight, made anew if it was written to since the last time.

    weight         [.., in, out] float32 on a CPU, or [.., out, in] with `outputs_first`
    returns        [matrices, panels, in, columns of a panel], zeros beyond the last column
    """
    key, version = id(weight), 0 if weight.is_inference() else weight._version  # noqa: SLF001
    kept = _KEPT.get(key)
    if kept is not None and kept[1] == version:
        return kept[2]
    packed = _pack(weight.transpose(-1, -2) if outputs_first else weight)
    _KEPT[key] = (ref(weight, lambda _: _KEPT.pop(key, None)), version, packed)
    return packed


def first_panel(weight: Tensor, column: int) -> Tensor | None:
    """Return the panels of [in, out] from a column on; None where no panel begins with it."""
    width = _PANEL_COLUMNS()
    return None if column % width else panels_of(weight)[0, column // width :]


def _pack(weight: Tensor) -> Tensor:
    matrices = weight.unsqueeze(0) if weight.dim() == 2 else weight
    count, depth, columns = matrices.shape
    width = _PANEL_COLUMNS()
    packed = torch.empty(count, -(-columns // width), depth, width)
    _PACK(matrices.data_ptr(), *matrices.stride(), packed.data_ptr(), count, depth, columns)
    return packed


def can_pack(*weights: object) -> bool:
    """Whether these are weights that panels can be made of."""
    return all(
        isinstance(weight, Tensor) and weight.dtype is torch.float32 and weight.is_cpu for weight in weights
    )

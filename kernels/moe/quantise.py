"""Rows as FP8 with one factor for each 128 values, as DeepSeek-V3 was trained to be dispatched.

Source: DeepSeek-V3 report (arXiv 2412.19437) section 3.3: 1 x 128 tiles of activations, factors online.
"""

import torch
from torch import Tensor

TILE = 128
FP8_MAX = 448.0
"""Largest finite float8_e4m3fn."""

QuantisedRows = tuple[Tensor, Tensor]
"""[..., hidden] float8_e4m3fn and [..., hidden / 128] float32; value times factor is what was quantised."""


def quantise_rows(x: Tensor) -> QuantisedRows:
    """Quantise `[tokens, hidden]`; `hidden` is a multiple of 128."""
    tiles = _tiles(x.float())
    scales = tiles.abs().amax(-1).clamp_(min=1e-10).div_(FP8_MAX)
    return (tiles / scales.unsqueeze(-1)).to(torch.float8_e4m3fn).flatten(-2), scales


def dequantise_rows(rows: QuantisedRows, dtype: torch.dtype) -> Tensor:
    """Undo `quantise_rows`."""
    values, scales = rows
    tiles = _tiles(values.to(torch.float32))
    return (tiles * scales.unsqueeze(-1)).flatten(-2).to(dtype)


def _tiles(x: Tensor) -> Tensor:
    return x.view(*x.shape[:-1], x.shape[-1] // TILE, TILE)

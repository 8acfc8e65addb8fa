"""Copies of the running sequences' KV, one contiguous run a row, so that a CPU attends without gathering.

Blocks lie scattered over the pool, and matrix products want keys side by side: gathering them anew is half of
a decode step's attention. A row that holds the same sequence as in the step before, one token longer, needs
that one token only; any other is read from the pool first. Rows are as long as the longest sequence, so a
window that would grow past its share of the pool is given up, as are batches of very different lengths: then
attention gathers. So it does with an FP8 pool, which holds rounded numbers. The geometries keep one each;
`attention.DecodeStep` hands it to the layers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.fp8 import FP8
from ..batch import DecodeBatch

POOL_SHARE = 2
"""A window takes at most one byte in so many of the pool's."""
ROW_STEP = 8
TOKEN_STEP = 128


@dataclass(frozen=True, slots=True)
class WindowStep:
    """The window as the layers of a decode step, or of a half, use it: `rows` of `keys` tokens, or fewer."""

    layers: Tensor
    """[layers, planes, rows, heads, tokens, width]"""
    token_rows: Tensor
    """[rows * planes * heads] int64, where the step's tokens go in a layer seen as [-1, width]"""
    rows: range
    keys: int

    def write(self, layer: int, values: Tensor) -> None:
        """Add the step's tokens: `[rows * planes * heads, width]`."""
        self.layers[layer].view(-1, values.shape[-1]).index_copy_(0, self.token_rows, values)

    def read(self, layer: int) -> Tensor:
        """Return `[planes, rows * heads, keys, width]`, a view; past a sequence's end it holds zeros."""
        return self.layers[layer, :, self.rows.start : self.rows.stop, :, : self.keys].flatten(1, 2)


class DecodeWindow:
    """Keeps the copies from step to step."""

    def __init__(self, planes: int, heads: int) -> None:
        """`planes` are 1 for MLA, 2 for keys and values; `heads` those of a plane."""
        self._planes = planes
        self._heads = heads
        self._copies: Tensor | None = None
        self._current = 0
        """Rows that hold what they held after the step before."""

    def step(self, batch: DecodeBatch, lengths: list[int], pool: Tensor, rows: range) -> WindowStep | None:
        """Bring rows up to the tokens before this step's; None where the window is not worth its room.

        batch    the whole step
        lengths  [live], tokens of each sequence with this step's
        pool     the KV pool
        rows     all live rows, or those of one half; of two, the first comes first
        """
        if batch.continued is None or pool.dtype is FP8:
            self._current = 0
            return None
        blocks = pool.view(*pool.shape[:2], self._planes, self._heads, *pool.shape[-2:])
        copies = self._room_for(batch.live, max(lengths), blocks)
        if copies is None:
            return None
        for row in rows:
            if row >= self._current or not batch.continued[row]:
                _copy_row(copies[:, :, row], blocks, batch.block_tables[row], lengths[row] - 1)
        self._current = batch.live if rows.stop == batch.live else max(self._current, rows.stop)
        longest = max(lengths[rows.start : rows.stop])
        return WindowStep(copies, self._token_rows(copies, batch, rows), rows, longest)

    def give_up(self) -> None:
        """Forget all rows: a step was computed without the window."""
        self._current = 0

    def _room_for(self, rows: int, tokens: int, blocks: Tensor) -> Tensor | None:
        copies = self._copies
        if copies is not None and copies.shape[2] >= rows and copies.shape[4] >= tokens:
            return copies
        self._current = 0
        self._copies = None
        layers, width = blocks.shape[1], blocks.shape[-1]
        room = (_up(rows, ROW_STEP), self._heads, _up(tokens, TOKEN_STEP), width)
        if layers * self._planes * room[0] * room[1] * room[2] * room[3] <= blocks.numel() // POOL_SHARE:
            self._copies = blocks.new_zeros(layers, self._planes, *room)
        return self._copies

    def _token_rows(self, copies: Tensor, batch: DecodeBatch, rows: range) -> Tensor:
        capacity, heads, tokens = copies.shape[2:5]
        places = torch.arange(rows.start, rows.stop)
        first = places * (heads * tokens) + batch.positions[rows.start : rows.stop]
        planes = torch.arange(self._planes).unsqueeze(1) * (capacity * heads * tokens)
        steps = (planes + torch.arange(heads) * tokens).flatten()
        return (first.unsqueeze(1) + steps).flatten()


def _copy_row(copy: Tensor, blocks: Tensor, table: Tensor, tokens: int) -> None:
    """Copy the first tokens of a table's blocks, all layers: to [layers, planes, heads, tokens, width]."""
    block_tokens = blocks.shape[-2]
    for number, block in enumerate(table[: -(-tokens // block_tokens)].tolist()):
        start = number * block_tokens
        count = min(block_tokens, tokens - start)
        copy[..., start : start + count, :] = blocks[block][..., :count, :]
    # Weight zero does not hide a NaN: what the row held for another sequence must not be read with this one.
    copy[..., tokens:, :] = 0.0


def _up(value: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-value // step) * step

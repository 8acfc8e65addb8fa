"""A decode step whose attention reads block tables by itself: where its tokens are, and what they see."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PagedRows:
    """The step in one layer of the pool."""

    layer: int
    rows: Tensor
    """[batch * planes] int64, rows of the pool that the tokens' KV goes to"""
    turns: Tensor
    """[batch, dim / 2] or [batch, 1, dim / 2] complex64"""
    tables: Tensor
    """[batch, max_blocks] int32"""
    lengths: Tensor
    """[batch] int32, 0 in dead rows"""


@dataclass(frozen=True, slots=True)
class PagedStep:
    """What all layers of the step share.

    No shape depends on lengths, and dead rows take part: B is the size of the bucket, as a CUDA graph needs.
    """

    turns: Tensor
    """[B, dim / 2] or [B, 1, dim / 2] complex64, rotations of the tokens' positions"""
    token_rows: Tensor
    """[layers, B * planes] int64, rows of the pool for the tokens' KV; of the null block in dead rows"""
    tables: Tensor
    """[B, M] int32"""
    lengths: Tensor
    """[B] int32, 0 in dead rows"""

    def rows_of(self, layer: int) -> PagedRows:
        """What one layer needs of it."""
        return PagedRows(layer, self.token_rows[layer], self.turns, self.tables, self.lengths)

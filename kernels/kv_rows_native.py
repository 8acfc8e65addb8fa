"""`kv_rows.py` in C++."""

import torch
from torch import Tensor

from . import kv_rows as in_torch
from .by_device import reference
from .native.library import are_plain, function

_TOKEN_ROWS = function("token_rows", "piiiip")
_WRITE = function("write_rows", "pppiiiiii")


def mla_token_rows(slots: Tensor, layers: int, block_tokens: int) -> Tensor:
    """Rows of tokens, `[layers, tokens]`."""
    if not _takes(slots):
        return reference(in_torch.mla_token_rows)(slots, layers, block_tokens)
    return _token_rows(slots, layers, 1, block_tokens)


def gqa_token_rows(slots: Tensor, layers: int, kv_heads: int, block_tokens: int) -> Tensor:
    """Rows of tokens' keys and values, `[layers, tokens * 2 * kv_heads]`."""
    if not _takes(slots):
        return reference(in_torch.gqa_token_rows)(slots, layers, kv_heads, block_tokens)
    return _token_rows(slots, layers, 2 * kv_heads, block_tokens)


def _takes(slots: Tensor) -> bool:
    return slots.dtype is torch.int64 and slots.is_cpu and slots.is_contiguous()


def _token_rows(slots: Tensor, layers: int, planes: int, block_tokens: int) -> Tensor:
    rows = torch.empty(layers, slots.shape[0] * planes, dtype=torch.int64)
    _TOKEN_ROWS(slots.data_ptr(), slots.shape[0], layers, planes, block_tokens, rows.data_ptr())
    return rows


def write_rows(pool: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write values into the pool."""
    if not are_plain(pool, values) or not rows.is_contiguous():
        return reference(in_torch.write_rows)(pool, rows, values)
    each = values if values.dim() == 3 else values.unsqueeze(1)  # rows of a token
    tokens, inner, width = each.shape
    _WRITE(
        pool.data_ptr(), rows.data_ptr(), each.data_ptr(), *each.stride()[:2], tokens, inner, width,
        torch.get_num_threads(),
    )  # fmt: skip
    return None

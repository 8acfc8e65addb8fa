"""What paged decode kernels share: how many programs divide a sequence's keys, and how their parts merge.

A decode step has few queries and many keys. Where batch and heads alone do not fill the GPU, each sequence's
keys are split; every part leaves its output and the log of its normaliser, and a second kernel combines them.
The number of parts depends on shapes alone, never on contexts, so a captured graph stays right.
"""

import torch
import triton.language as tl
from torch import Tensor

from .jit import Number, Pointer, Tile, jit, power_of_two, rounded

MAX_SPLITS = 32
MIN_SPLIT_KEYS = 256  # a shorter part costs more in merging than it saves


def split_count(programs: int, processors: int, max_keys: int) -> int:
    """Parts of each sequence for `programs` programs a part; `max_keys` is what the block table can hold."""
    wanted = processors // max(programs, 1)
    return max(1, min(wanted, MAX_SPLITS, max_keys // MIN_SPLIT_KEYS))


class Parts:
    """Room for the parts of `rows` queries."""

    def __init__(self, rows: int, splits: int, width: int, device: torch.device) -> None:
        self.splits = splits
        self.out = torch.empty(rows, splits, width, dtype=torch.float32, device=device)
        self.logs = torch.empty(rows, splits, dtype=torch.float32, device=device)

    def merge(self, out: Tensor) -> None:
        """Combine into `out` [rows, width]; a row without keys becomes zero."""
        rows, splits, width = self.out.shape
        block = power_of_two(width)
        _merge_kernel[(rows,)](
            self.out, self.logs, out, splits, width, power_of_two(splits), block,
            num_warps=min(max(block // 128, 1), 8),
        )  # fmt: skip


@jit
def part_bounds(keys: Number, splits: Number, part: Number, block_keys: tl.constexpr) -> tuple[Tile, Tile]:
    """First key and end of a part; parts are whole blocks of keys, and the last ones may be empty."""
    size = tl.cdiv(tl.cdiv(keys, splits), block_keys) * block_keys
    return part * size, tl.minimum((part + 1) * size, keys)


@jit
def _merge_kernel(
    parts: Pointer,  # [rows, splits, width] float32
    logs: Pointer,  # [rows, splits] float32, base 2, minus infinity where a part has no keys
    out: Pointer,  # [rows, width]
    splits: Number,
    width: Number,
    block_splits: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    split = tl.arange(0, block_splits)
    all_logs = tl.load(logs + row * splits + split, mask=split < splits, other=float("-inf"))
    top = tl.max(all_logs, 0)
    top = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.exp2(all_logs - top), 0)
    mixed = tl.zeros([block], tl.float32)
    for part in range(splits):
        log = tl.load(logs + row * splits + part)
        # An empty part was never written, so its weight of zero does not suffice.
        mask = column < tl.where(log > float("-inf"), width, 0)
        value = tl.load(parts + (row * splits + part) * width + column, mask=mask, other=0.0)
        mixed += value * tl.exp2(log - top)
    mixed = tl.where(total > 0.0, mixed / tl.where(total > 0.0, total, 1.0), 0.0)
    tl.store(out + row * width + column, rounded(mixed, out.dtype.element_ty), mask=column < width)

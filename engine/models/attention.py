"""What a decoder asks of its attention: how the cache looks, what a step needs, and the layers themselves.

Everything that is the same in all layers (addresses, rotations, masks) is computed once a step, here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...kernels.gqa_layer import GqaLayer
from ...kernels.mla_layer import MlaLayer
from ...kernels.paged_step import PagedStep
from ...kvtransfer.layout import KvFormat
from ..batch import DecodeBatch, PrefillBatch
from .decode_window import DecodeWindow, WindowStep

SHORT_TOKENS = 128  # contexts up to here are padded together


@dataclass(frozen=True, slots=True)
class PrefillStep:
    """What all layers of a prefill step share."""

    turns: Tensor
    """[T, dim / 2] complex64, rotations of the tokens' positions"""
    token_rows: list[Tensor]
    """For each layer, rows of the pool that the tokens' KV goes to"""
    query_starts: list[int]
    context_lens: list[int]
    context_rows: list[Tensor]
    """For each sequence, rows of its cached context in layer 0; each further layer adds `layer_rows`"""
    layer_rows: int
    ends: PagedStep | None = None
    """The rows with wanted logits as those of a decode step, where attention reads blocks: in the last layer
    no other row has to attend"""

    def context_rows_of(self, layer: int) -> list[Tensor]:
        """Rows of each sequence's cached context in a layer."""
        step = layer * self.layer_rows
        return [rows + step if rows.numel() else rows for rows in self.context_rows]


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Sequences of similar length, which attend together."""

    members: Tensor
    """[n] int64, their rows in the step"""
    mask: Tensor | None
    """[n, 1, keys], minus infinity past each sequence's end; None where all have as many tokens"""
    read: Callable[[int], Tensor]
    """KV of a layer, `[planes, n * heads, keys, width]`: one plane for MLA, keys and values for GQA"""


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """What all layers of a decode step share. Dead rows are left out: B is the number of live rows."""

    turns: Tensor
    """[B, dim / 2] complex64"""
    token_rows: list[Tensor]
    """For each layer, rows of the pool that the tokens' KV goes to"""
    groups: list[DecodeGroup]
    """Every row is a member of one"""
    window: WindowStep | None = None
    """What the one group reads, where it does not read the pool"""

    def note(self, layer: int, values: Tensor) -> None:
        """Let the groups see what went into the cache: the tokens' KV, `[B * planes * heads, width]`."""
        if self.window is not None:
            self.window.write(layer, values)

    def attend(self, q: Tensor, attend: Callable[[Tensor, DecodeGroup], Tensor]) -> Tensor:
        """Attend group by group: [B, ...] to [B, ...]."""
        if len(self.groups) == 1:
            return attend(q, self.groups[0])
        parts = [attend(q.index_select(0, group.members), group) for group in self.groups]
        joined = torch.cat(parts)
        return torch.empty_like(joined).index_copy_(0, torch.cat([g.members for g in self.groups]), joined)


class Geometry(Protocol):
    """The cache of one kind of attention."""

    format: KvFormat
    kv_heads: int
    values_per_token: int

    def pool_shape(self, num_blocks: int, block_tokens: int) -> tuple[int, ...]:
        """Shape of the KV pool."""
        ...

    def prefill_step(self, batch: PrefillBatch, pool: Tensor, table: Tensor) -> PrefillStep:
        """Prepare a prefill step; `table` holds rotations by position."""
        ...

    def decode_step(self, batch: DecodeBatch, pool: Tensor, table: Tensor) -> DecodeStep | PagedStep:
        """Prepare a decode step of exact shapes, for a CPU: its rows are the live ones."""
        ...

    def paged_step(self, batch: DecodeBatch, pool: Tensor, table: Tensor) -> PagedStep:
        """Prepare a decode step whose shapes only the bucket decides, for a GPU."""
        ...


class Attention(Protocol):
    """Attention of one layer, from the normalised input to the output projection.

    What prompts go through is cut in three: `enter` and `leave` take tokens one by one, and only
    `attend_prompts` between them knows of sequences.
    """

    @property
    def weights(self) -> MlaLayer | GqaLayer:
        """What a decode step computes with."""
        ...

    def enter(self, x: Tensor, pool: Tensor, turns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Project, rotate, write the KV to `rows` of the pool: [T, hidden] to queries and KV, [T, ...]."""
        ...

    def attend_prompts(self, q: Tensor, new: Tensor, pool: Tensor, step: PrefillStep, layer: int) -> Tensor:
        """Attend from each chunk to its cached context and to itself: what `enter` gave, to [T, width]."""
        ...

    def leave(self, attended: Tensor) -> Tensor:
        """Project: [T, width] to [T, hidden]."""
        ...

    def prefill(self, x: Tensor, pool: Tensor, step: PrefillStep, layer: int) -> Tensor:
        """Do all three: [T, hidden] to [T, hidden]."""
        ...

    def write(self, x: Tensor, pool: Tensor, turns: Tensor, rows: Tensor) -> None:
        """Write the tokens' KV to `rows` of the pool, and attend to nothing: [T, hidden]."""
        ...

    def decode(self, x: Tensor, pool: Tensor, step: DecodeStep | PagedStep, layer: int) -> Tensor:
        """Write the tokens' KV and attend: [B, hidden] to [B, hidden]."""
        ...


def ending_rows(batch: PrefillBatch) -> DecodeBatch:
    """Return the rows with wanted logits as a decode step that comes after all others were written."""
    rows = batch.logit_rows
    starts = torch.tensor(batch.query_starts)
    sequences = torch.searchsorted(starts, rows, right=True) - 1
    positions = batch.positions.index_select(0, rows)
    return DecodeBatch(
        token_ids=batch.token_ids.index_select(0, rows),
        positions=positions,
        slots=batch.slots.index_select(0, rows),
        block_tables=batch.block_tables.index_select(0, sequences),
        context_lens=(positions + 1).int(),
        live=rows.shape[0],
    )


ReadPool = Callable[[Tensor, int], Callable[[int], Tensor]]
"""From block tables and a number of keys to `DecodeGroup.read`."""


def decode_groups(
    batch: DecodeBatch, pool: Tensor, window: DecodeWindow, read_pool: ReadPool
) -> tuple[list[DecodeGroup], WindowStep | None]:
    """Put the live rows in groups; a single one reads the window, where that has room."""
    whole = batch.whole or batch  # both halves of a step read the window, or none does
    of_all = whole.context_lens[: whole.live].tolist()
    lengths = of_all[batch.rows.start : batch.rows.stop]
    groups = group_by_length(of_all)
    if len(groups) == 1:
        held = window.step(whole, of_all, pool, batch.rows)
        if held is not None:
            mask = length_mask(lengths, pool.device)
            return [DecodeGroup(torch.arange(batch.live), mask, held.read)], held
    window.give_up()
    made = []
    for rows in group_by_length(lengths):
        members = torch.tensor(rows, device=pool.device)
        own = [lengths[row] for row in rows]
        tables = batch.block_tables.index_select(0, members)
        made.append(DecodeGroup(members, length_mask(own, pool.device), read_pool(tables, max(own))))
    return made, None


def group_by_length(lengths: list[int]) -> list[list[int]]:
    """Split rows so that in a group no sequence is less than half as long as the longest.

    Padding to the longest would let one long context slow down all others; short ones are not worth a split.
    """
    groups: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or 2 * max(lengths[row], SHORT_TOKENS) < longest:
            groups.append([])
            longest = lengths[row]
        groups[-1].append(row)
    return [sorted(group) for group in groups]


def length_mask(lengths: list[int], device: torch.device) -> Tensor | None:
    """Return `[sequences, 1, longest]`, minus infinity past each length; None when all are equal."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    beyond = torch.arange(longest, device=device) >= torch.tensor(lengths, device=device).unsqueeze(1)
    return torch.zeros(beyond.shape, device=device).masked_fill_(beyond, float("-inf")).unsqueeze(1)

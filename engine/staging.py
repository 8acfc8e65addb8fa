"""Turns a step's sequences into the tensors a model reads. Staging buffers are allocated once.

Block tables change rarely, so the decode batch keeps them from step to step and writes only what is new.
On a GPU the host buffers are pinned and copied into device buffers that stay at their addresses, as a
captured graph needs; on a CPU the model reads the host buffers themselves. Called by `runner` alone.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .batch import DecodeBatch, PrefillBatch
from .host_copy import to_device
from .sequence import Sequence
from .step import Chunk


class StagingBuffer:
    """One host array with its tensor where the model runs."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        host = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
        self.host: npt.NDArray[np.generic] = host.numpy()
        self._host_tensor = host
        self._tensor = host if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)

    def rows(self, count: int, columns: int | None = None) -> Tensor:
        """Return the first `count` rows (and `columns`) as the model reads them."""
        window = (slice(count),) if columns is None else (slice(count), slice(columns))
        if self._tensor is not self._host_tensor:
            self._tensor[window].copy_(self._host_tensor[window], non_blocking=True)
        return self._tensor[window]


class HostBuffers:
    """Says when the host side of staging buffers may be written again: once the last batch has left it."""

    def __init__(self, device: torch.device) -> None:
        self._left: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._left = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def __enter__(self) -> None:
        if self._left is not None:
            self._left.synchronize()

    def __exit__(self, *_: object) -> None:
        if self._left is not None:
            self._left.record()


class PrefillStaging:
    """Packs chunks of prompts."""

    def __init__(self, max_tokens: int, block_tokens: int, device: torch.device) -> None:
        self._block_tokens = block_tokens
        self._device = device
        self._host_buffers = HostBuffers(device)
        self._token_ids, self._positions, self._slots = (
            StagingBuffer((max_tokens,), torch.int64, device) for _ in range(3)
        )

    def pack(self, chunks: list[Chunk], completed: list[Sequence]) -> PrefillBatch:
        """Return the chunks one after the other; logits are wanted of the last row of those `completed`."""
        with self._host_buffers:
            return self._pack(chunks, completed)

    def _pack(self, chunks: list[Chunk], completed: list[Sequence]) -> PrefillBatch:
        tables = _block_tables([chunk.sequence for chunk in chunks])
        starts, logit_rows = [0], []
        wanted = {id(sequence) for sequence in completed}
        for table, chunk in zip(tables, chunks, strict=True):
            end = starts[-1] + chunk.length
            self._write(chunk, table, slice(starts[-1], end))
            starts.append(end)
            if id(chunk.sequence) in wanted:
                logit_rows.append(end - 1)
        total = starts[-1]
        return PrefillBatch(
            token_ids=self._token_ids.rows(total),
            positions=self._positions.rows(total),
            slots=self._slots.rows(total),
            query_starts=starts,
            context_lens=[chunk.sequence.num_computed for chunk in chunks],
            block_tables=to_device(torch.from_numpy(tables), self._device),
            logit_rows=to_device(torch.tensor(logit_rows, dtype=torch.int64), self._device),
        )

    def _write(self, chunk: Chunk, table: npt.NDArray[np.int32], rows: slice) -> None:
        start = chunk.sequence.num_computed
        positions = np.arange(start, start + chunk.length)
        self._token_ids.host[rows] = chunk.sequence.tokens[start : start + chunk.length]
        self._positions.host[rows] = positions
        self._slots.host[rows] = _slots(table[positions // self._block_tokens], positions, self._block_tokens)


class DecodeStaging:
    """Keeps the decode batch: row `i` is the scheduler's row `i`, rows up to the bucket size are dead."""

    def __init__(
        self,
        *,
        max_rows: int,
        max_blocks: int,
        block_tokens: int,
        device: torch.device,
        bucket_of: Callable[[int], int],
    ) -> None:
        self._block_tokens = block_tokens
        self._bucket_of = bucket_of
        self._static_width = max_blocks if device.type == "cuda" else None
        self._token_ids, self._positions, self._slots = (
            StagingBuffer((max_rows,), torch.int64, device) for _ in range(3)
        )
        self._context_lens = StagingBuffer((max_rows,), torch.int32, device)
        self._follows = StagingBuffer((max_rows,), torch.int64, device)
        self._host_buffers = HostBuffers(device)
        self._tables = StagingBuffer((max_rows, max_blocks), torch.int32, device)
        self._staged: list[list[int] | None] = [None] * max_rows
        """The block list staged in each row. A sequence that is preempted gets a new list, so that identity
        tells whether a row is current, but for blocks at its end."""
        self._staged_blocks = [0] * max_rows
        self._staged_last = [0] * max_rows
        self._live = 0

    def pack(
        self, sequences: list[Sequence], follows: list[int | None] | None = None, drawn: Tensor | None = None
    ) -> DecodeBatch:
        """Return the batch of the next step, padded to its bucket.

        follows  `Step.follows`; the rows it names take their tokens from `drawn`
        drawn    [B'] int64 on the device, what the step before drew
        """
        with self._host_buffers:
            continued = self._continued(sequences)
            token_ids = [sequence.tokens[-1] for sequence in sequences]
            places = [sequence.num_computed for sequence in sequences]
            batch = self._pack(sequences, token_ids, places, continued)
            if follows is not None:
                assert drawn is not None
                self._take_drawn(batch.token_ids[: batch.live], follows, drawn)
            return batch

    def pack_rows(
        self, sequences: list[Sequence], token_ids: list[int] | Tensor, places: list[int]
    ) -> DecodeBatch:
        """Return rows of any tokens at any places of sequences, which may recur; padded to a bucket."""
        live = len(sequences)
        with self._host_buffers:
            if not isinstance(token_ids, Tensor):
                return self._pack(sequences, token_ids, places)
            batch = self._pack(sequences, [0] * live, places)
            batch.token_ids[:live].copy_(token_ids)
            return batch

    def _pack(
        self,
        sequences: list[Sequence],
        token_ids: list[int],
        places: list[int],
        continued: list[bool] | None = None,
    ) -> DecodeBatch:
        live = len(sequences)
        widest = self._stage_tables(sequences)
        positions = np.array(places, np.int64)
        self._token_ids.host[:live] = token_ids
        self._positions.host[:live] = positions
        self._context_lens.host[:live] = positions + 1
        blocks = self._tables.host[np.arange(live), positions // self._block_tokens]
        self._slots.host[:live] = _slots(blocks, positions, self._block_tokens)
        self._clear_rows(live, self._live)
        self._live = live
        size = self._bucket_of(live)
        return DecodeBatch(
            token_ids=self._token_ids.rows(size),
            positions=self._positions.rows(size),
            slots=self._slots.rows(size),
            block_tables=self._tables.rows(size, self._static_width or _rounded_up(widest, self._tables)),
            context_lens=self._context_lens.rows(size),
            live=live,
            continued=continued,
        )

    def _continued(self, sequences: list[Sequence]) -> list[bool] | None:
        if self._static_width is not None:
            return None  # a GPU reads the pool
        # What was staged may be of a step that failed: then every row of it has ended, and none goes on.
        positions = self._positions.host[: len(sequences)].tolist()
        return [
            blocks is sequence.blocks and position + 1 == sequence.num_computed
            for blocks, position, sequence in zip(self._staged, positions, sequences, strict=False)
        ]

    def _take_drawn(self, token_ids: Tensor, follows: list[int | None], drawn: Tensor) -> None:
        """Replace the tokens of rows that follow a draw; one that drew nothing computes token 0, in vain."""
        live = len(follows)
        self._follows.host[:live] = [-1 if row is None else row for row in follows]
        rows = self._follows.rows(live)
        followed = drawn[rows.clamp_min(0)].clamp_min(0)
        token_ids.copy_(torch.where(rows >= 0, followed, token_ids))

    def _stage_tables(self, sequences: list[Sequence]) -> int:
        """Write the rows that changed; return how many blocks the longest row has."""
        widest = 1
        staged, counts, last = self._staged, self._staged_blocks, self._staged_last
        for row, sequence in enumerate(sequences):
            blocks = sequence.blocks
            count = len(blocks)
            widest = max(widest, count)
            if staged[row] is not blocks or counts[row] != count or last[row] != blocks[-1]:
                self._stage_row(row, blocks)
        return widest

    def _stage_row(self, row: int, blocks: list[int]) -> None:
        count, before = len(blocks), self._staged_blocks[row]
        # Of a list that is staged already only the end can differ: grown by a block, or its last one copied.
        unchanged = min(before, count) - 1 if self._staged[row] is blocks else 0
        table = self._tables.host[row]
        table[unchanged:count] = blocks[unchanged:]
        table[count:before] = 0
        self._staged[row], self._staged_blocks[row], self._staged_last[row] = blocks, count, blocks[-1]

    def _clear_rows(self, start: int, end: int) -> None:
        if start >= end:
            return
        for buffer in (self._token_ids, self._positions, self._slots, self._context_lens, self._tables):
            buffer.host[start:end] = 0
        for row in range(start, end):
            self._staged[row], self._staged_blocks[row], self._staged_last[row] = None, 0, 0


def _slots(
    blocks: npt.NDArray[np.generic], positions: npt.NDArray[np.int64], block_tokens: int
) -> npt.NDArray[np.int64]:
    return blocks.astype(np.int64) * block_tokens + positions % block_tokens


def _block_tables(sequences: list[Sequence]) -> npt.NDArray[np.int32]:
    tables = np.zeros((len(sequences), max(len(s.blocks) for s in sequences)), np.int32)
    for row, sequence in enumerate(sequences):
        tables[row, : len(sequence.blocks)] = sequence.blocks
    return tables


def _rounded_up(blocks: int, tables: StagingBuffer) -> int:
    """Return the next power of two, so that a CPU step reads no wider tables than it needs, in few shapes."""
    return min(1 << (blocks - 1).bit_length(), int(tables.host.shape[1]))

"""Decode steps, one graph a batch size: inputs are copied to tensors that stay, logits are left in one."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..batch import DecodeBatch
from .backend import Graph, GraphBackend

Decode = Callable[[DecodeBatch], Tensor]
"""A decode step whose shapes the size of the batch alone decides: float32 logits of all its rows"""


class DecodeInputs:
    """A batch of the largest size whose tensors stay where they are; smaller ones are its first rows."""

    def __init__(self, rows: int, max_blocks: int, device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._all = DecodeBatch(
            token_ids=zeros(rows),
            positions=zeros(rows),
            slots=zeros(rows),
            block_tables=zeros(rows, max_blocks, dtype=torch.int32),
            context_lens=zeros(rows, dtype=torch.int32),
            live=0,
        )

    def window(self, size: int) -> DecodeBatch:
        """The first `size` rows."""
        rows = self._all
        return DecodeBatch(
            token_ids=rows.token_ids[:size],
            positions=rows.positions[:size],
            slots=rows.slots[:size],
            block_tables=rows.block_tables[:size],
            context_lens=rows.context_lens[:size],
            live=size,
        )

    def fill(self, batch: DecodeBatch) -> None:
        """Copy a batch in; its tables may be narrower."""
        target = self.window(batch.token_ids.shape[0])
        target.token_ids.copy_(batch.token_ids)
        target.positions.copy_(batch.positions)
        target.slots.copy_(batch.slots)
        target.context_lens.copy_(batch.context_lens)
        width = batch.block_tables.shape[1]
        target.block_tables[:, :width].copy_(batch.block_tables)
        target.block_tables[:, width:].zero_()


class DecodeGraphs:
    """Captured decode steps of a model over one pool."""

    def __init__(self, decode: Decode, inputs: DecodeInputs, logits: Tensor) -> None:
        """Take the step and its tensors; `logits`, [largest size, vocab] float32, holds what it gives."""
        self._decode = decode
        self._inputs = inputs
        self._logits = logits
        self._graphs: dict[int, Graph] = {}

    @property
    def sizes(self) -> list[int]:
        """Batch sizes that are captured, in order."""
        return sorted(self._graphs)

    def capture(self, backend: GraphBackend, sizes: Iterable[int], captured: Callable[[], None]) -> None:
        """Capture the sizes, largest first; `captured` is called after each."""
        for size in sorted(sizes, reverse=True):
            self._graphs[size] = self._capture(backend, size)
            captured()

    def replay(self, batch: DecodeBatch) -> Tensor:
        """Compute a batch of a captured size; the logits stay valid until the next replay."""
        size = batch.token_ids.shape[0]
        self._inputs.fill(batch)
        self._graphs[size].replay()
        return self._logits[:size]

    def _capture(self, backend: GraphBackend, size: int) -> Graph:
        batch, logits = self._inputs.window(size), self._logits[:size]

        def step() -> None:
            logits.copy_(self._decode(batch))

        return backend.capture(step)

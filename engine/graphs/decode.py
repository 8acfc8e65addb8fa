"""Decode steps, one graph a batch size: inputs are copied to tensors that stay, logits are left in one."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..batch import DecodeBatch
from .backend import Graph, GraphBackend

logger = logging.getLogger(__name__)

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

    def fill(self, batch: DecodeBatch, size: int) -> None:
        """Copy a batch in and pad it to `size` rows with dead ones; its tables may be narrower."""
        rows, width = batch.block_tables.shape
        target = self.window(size)
        for buffer, values in (
            (target.token_ids, batch.token_ids),
            (target.positions, batch.positions),
            (target.slots, batch.slots),
            (target.context_lens, batch.context_lens),
            (target.block_tables[:, :width], batch.block_tables),
        ):
            buffer[:rows].copy_(values)
            buffer[rows:].zero_()
        target.block_tables[:, width:].zero_()


class DecodeGraphs:
    """Captured decode steps of a model over one pool."""

    def __init__(
        self, decode: Decode, largest: int, max_blocks: int, vocab: int, device: torch.device
    ) -> None:
        """Make tensors for batches of `largest` rows and tables of `max_blocks`."""
        self._decode = decode
        self._inputs = DecodeInputs(largest, max_blocks, device)
        self._logits = torch.zeros(largest, vocab, dtype=torch.float32, device=device)
        self._graphs: dict[int, Graph] = {}
        self._missed: set[int] = set()

    @property
    def sizes(self) -> list[int]:
        """Batch sizes that are captured, in order."""
        return sorted(self._graphs)

    def holds(self, size: int) -> bool:
        """Tell whether a size is captured; the log hears once of each that is not."""
        if size in self._graphs:
            return True
        if size not in self._missed:
            self._missed.add(size)
            logger.warning(
                "decode batches of %d rows are not captured and run eagerly, which is slower; captured: %s",
                size,
                self.sizes,
            )
        return False

    def capture(self, backend: GraphBackend, sizes: Iterable[int], captured: Callable[[], None]) -> None:
        """Capture the sizes, largest first; `captured` is called after each."""
        for size in sorted(sizes, reverse=True):
            self._graphs[size] = self._capture(backend, size)
            captured()

    @torch.inference_mode()
    def replay(self, batch: DecodeBatch, size: int) -> Tensor:
        """Compute a batch padded to a captured size; the logits stay valid until the next replay."""
        self._inputs.fill(batch, size)
        self._graphs[size].replay()
        return self._logits[:size]

    def _capture(self, backend: GraphBackend, size: int) -> Graph:
        batch, logits = self._inputs.window(size), self._logits[:size]

        def step() -> None:
            logits.copy_(self._decode(batch))

        return backend.capture(step)

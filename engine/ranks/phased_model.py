"""A model as its ranks run it: which phase a pass is of, in halves or whole, captured or not.

The runner sets what the ranks have agreed on before each step; the layers know nothing of phases.
"""

from collections.abc import Callable
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from ...kernels.moe.phases import PhasedMoe
from ...kvtransfer.layout import KvLayout
from ..batch import DecodeBatch, PrefillBatch
from ..graphs.backend import GraphBackend
from ..graphs.decode import DecodeGraphs
from ..models import Model
from ..models.config import ModelConfig
from ..models.mlp import MoeMlp
from .rebalance import Rebalancer


class SplitModel(Model, Protocol):
    """A model that can compute a step in two halves whose transfers hide behind each other."""

    @property
    def moe_layers(self) -> list[MoeMlp]:
        """The mixtures of experts, in order."""

    def prefill_in_halves(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """Do what `prefill` does; two tokens at least."""

    def decode_in_halves(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Do what `decode` does; two live rows at least."""


class PhasedModel:
    """A model that tells its experts' backend which phase a pass is of; implements `Model`."""

    def __init__(self, model: SplitModel, moe: PhasedMoe, rebalancer: Rebalancer) -> None:
        self._model = model
        self._moe = moe
        self.rebalancer = rebalancer
        self.decode_rows = 1
        """What the ranks agreed to pad decode batches to."""
        self.prefill_in_halves = False
        self.decode_in_halves = False
        """The ranks agreed to overlap two halves of the step."""
        self._graphs: DecodeGraphs | None = None

    @property
    def captured_batch_sizes(self) -> list[int]:
        """Sizes of decode batches that are replayed."""
        return self._graphs.sizes if self._graphs else []

    @torch.inference_mode()
    def capture(
        self,
        backend: GraphBackend,
        kv: Tensor,
        *,
        batch_sizes: list[int],
        max_blocks: int,
        on_captured: Callable[[int, int], None],
    ) -> None:
        """Capture decode steps, transfers included; all ranks do so at the same time."""

        def decode(batch: DecodeBatch) -> Tensor:
            self._moe.enter_decode(batch.token_ids.shape[0])
            return self._model.decode(batch, kv)

        total, done = len(batch_sizes), count(1)
        if total:
            graphs = DecodeGraphs(decode, max(batch_sizes), max_blocks, self.config.vocab_size, kv.device)
            on_captured(0, total)
            graphs.capture(backend, batch_sizes, lambda: on_captured(next(done), total))
            self._graphs = graphs

    @property
    def moe_layers(self) -> list[MoeMlp]:
        """The mixtures of experts, in order."""
        return self._model.moe_layers

    def go_on_with(self, moe: PhasedMoe, rebalancer: Rebalancer) -> None:
        """Compute with other ranks from now on."""
        self._moe.take_over(moe)
        self.rebalancer = rebalancer

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self._model.config

    def kv_layout(self, block_tokens: int) -> KvLayout:
        """Return what a KV block of this model is made of."""
        return self._model.kv_layout(block_tokens)

    def new_kv_pool(self, num_blocks: int, block_tokens: int) -> Tensor:
        """Return a zeroed pool."""
        return self._model.new_kv_pool(num_blocks, block_tokens)

    def prefill(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """Compute prompt chunks, together with all ranks."""
        self._moe.enter_prefill()
        run = self._model.prefill_in_halves if self.prefill_in_halves else self._model.prefill
        return run(batch, kv)

    def decode(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Advance each sequence by one token, together with all ranks."""
        if not self.decode_in_halves:
            if self._graphs is not None and self._graphs.holds(self.decode_rows):
                return self._graphs.replay(batch, self.decode_rows)[: batch.token_ids.shape[0]]
            self._moe.enter_decode(self.decode_rows)
            return self._model.decode(batch, kv)
        self._moe.enter_decode((self.decode_rows + 1) // 2)
        return self._model.decode_in_halves(batch, kv)

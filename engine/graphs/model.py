"""A model that replays captured steps, and computes as it is where none is captured."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ...kvtransfer.layout import KvLayout
from ..batch import DecodeBatch, PrefillBatch
from ..models.config import ModelConfig
from ..models.decoder import Decoder
from .backend import GraphBackend
from .decode import DecodeGraphs
from .prefill import PrefillGraphs

logger = logging.getLogger(__name__)

OnCaptured = Callable[[int, int], None]
"""Called with the sizes captured and those to capture"""


class GraphedModel:
    """Implements `Model` over one pool."""

    def __init__(self, model: Decoder, kv: Tensor) -> None:
        self._model = model
        self._kv = kv
        self._decode: DecodeGraphs | None = None
        self._prefill: PrefillGraphs | None = None

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self._model.config

    @property
    def captured_batch_sizes(self) -> list[int]:
        """Decode batch sizes that are replayed."""
        return self._decode.sizes if self._decode else []

    def kv_layout(self, block_tokens: int) -> KvLayout:
        """Return what a KV block of this model is made of."""
        return self._model.kv_layout(block_tokens)

    def new_kv_pool(self, num_blocks: int, block_tokens: int) -> Tensor:
        """Return a zeroed pool."""
        return self._model.new_kv_pool(num_blocks, block_tokens)

    @torch.inference_mode()
    def capture(
        self,
        backend: GraphBackend,
        *,
        batch_sizes: list[int],
        max_blocks: int,
        prompt_sizes: list[int],
        on_captured: OnCaptured,
    ) -> None:
        """Capture decode steps and pieces of prompt chunks; `max_blocks` is the width of block tables."""
        total, done = len(batch_sizes) + len(prompt_sizes), 0

        def captured() -> None:
            nonlocal done
            done += 1
            on_captured(done, total)

        on_captured(0, total)
        if prompt_sizes:
            self._prefill = PrefillGraphs(self._model, self._kv, max(prompt_sizes))
            self._prefill.capture(backend, prompt_sizes, captured)
        if batch_sizes:
            self._decode = DecodeGraphs(
                lambda batch: self._model.decode(batch, self._kv),
                max(batch_sizes),
                max_blocks,
                self.config.vocab_size,
                self._kv.device,
            )
            self._decode.capture(backend, batch_sizes, captured)
        logger.info("captured decode batches of %s, prompt chunks of %s tokens", batch_sizes, prompt_sizes)

    @torch.inference_mode()
    def prefill(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """Compute prompt chunks, short ones by captured pieces."""
        assert kv is self._kv, "graphs hold the address of the pool they were captured with"
        size = self._prefill.size_of(batch.token_ids.shape[0]) if self._prefill else None
        if self._prefill is None or size is None:
            return self._model.prefill(batch, kv)
        return self._prefill.replay(batch, size)

    @torch.inference_mode()
    def decode(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Advance each sequence by one token; the logits stay valid until the next step."""
        assert kv is self._kv, "graphs hold the address of the pool they were captured with"
        size = batch.token_ids.shape[0]
        if self._decode is not None and self._decode.holds(size):
            return self._decode.replay(batch, size)
        return self._model.decode(batch, kv)

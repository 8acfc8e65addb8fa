"""The multi-token prediction layer of DeepSeek-V3 (arXiv 2412.19437, 2.2): guesses the token after the next.

From the model's final state at position `i` and the token at `i + 1` it predicts the token at `i + 2`. It has
attention of its own over earlier positions, so its KV is one more layer of the pool, the last one. Embedding
and output head are the model's: the copies that checkpoints carry stay unread.

Used as a draft it is applied again to its own state and its own guess, one position further each time.
Called by `engine/speculation`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.kv_rows import mla_token_rows
from ...kernels.rms_norm import add_rms_norm, rms_norm
from ..batch import DecodeBatch
from ..checkpoint.weights import Weights
from .attention import Geometry
from .config import ConfigError, ModelConfig
from .layer import DecoderWeights, Layer
from .mla import MlaAttention


@dataclass(frozen=True, slots=True)
class MtpWeights:
    """What the layer has beside an ordinary decoder layer."""

    token_norm: Tensor
    """[hidden], of embeddings; published as `enorm`"""
    state_norm: Tensor
    """[hidden], of the model's states; `hnorm`"""
    join: Tensor
    """[2 * hidden, hidden], embedding first; `eh_proj`"""
    norm: Tensor
    """[hidden], before the head; `shared_head.norm`"""

    @classmethod
    def read(cls, weights: Weights, prefix: str, hidden: int) -> "MtpWeights":
        """Read the tensors of the layer `prefix`."""
        return cls(
            token_norm=weights.tensor(f"{prefix}.enorm.weight", (hidden,)),
            state_norm=weights.tensor(f"{prefix}.hnorm.weight", (hidden,)),
            join=weights.projection([(f"{prefix}.eh_proj.weight", hidden)], 2 * hidden),
            norm=weights.tensor(f"{prefix}.shared_head.norm.weight", (hidden,)),
        )


class MtpLayer:
    """The layer, with the model's embedding, head and rotations."""

    def __init__(
        self,
        config: ModelConfig,
        geometry: Geometry,
        surroundings: DecoderWeights,
        weights: MtpWeights,
        layer: Layer,
        *,
        is_paged: bool,
    ) -> None:
        """Put the parts together, as in `Decoder`. Raises `ConfigError` unless the attention is MLA."""
        if not isinstance(layer.attention, MlaAttention):
            raise ConfigError(f"multi-token prediction needs MLA, which {config.model_type} does not have")
        self._eps = config.rms_norm_eps
        self._place = config.num_layers
        self._is_paged = is_paged
        self._step_of = geometry.paged_step if is_paged else geometry.decode_step
        self._surroundings = surroundings
        self._weights = weights
        self._layer = layer
        self._attention = layer.attention

    @torch.inference_mode()
    def write(self, token_ids: Tensor, positions: Tensor, slots: Tensor, states: Tensor, kv: Tensor) -> None:
        """Write the layer's KV at some positions, and predict nothing.

        token_ids         [n] int64, the tokens that follow the positions
        positions, slots  [n] int64
        states            [n, hidden], the model's final states at the positions
        """
        x = rms_norm(self._joined(token_ids, states), self._layer.input_norm, self._eps)
        turns = self._surroundings.rope.index_select(0, positions)
        rows = mla_token_rows(slots, kv.shape[1], kv.shape[2])[self._place]
        self._attention.write(x, kv, turns, rows)

    @torch.inference_mode()
    def predict(self, batch: DecodeBatch, states: Tensor, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one token a row; write the layer's KV at the rows' positions.

        batch    `token_ids` are the tokens that follow the positions
        states   [live, hidden], at the positions: the model's final ones, or those that this returned
        returns  float32 logits [live, vocab]; states [live, hidden]
        """
        step = self._step_of(batch, kv, self._surroundings.rope)
        token_ids, dead = batch.token_ids[: batch.live], None
        if self._is_paged:
            token_ids, dead = batch.token_ids, batch.context_lens.eq(0).unsqueeze(1)
            states = torch.cat((states, states.new_zeros(len(token_ids) - batch.live, states.shape[1])))
        stream = self._joined(token_ids, states)
        x = rms_norm(stream, self._layer.input_norm, self._eps)
        x = self._attention.decode(x, kv, step, self._place)
        x = self._layer.mlp(add_rms_norm(x, stream, self._layer.mlp_norm, self._eps), dead)
        x = add_rms_norm(x, stream, self._weights.norm, self._eps)
        # The published layer hands on its state as it is before the head's norm.
        return torch.mm(x[: batch.live], self._surroundings.head).float(), stream[: batch.live]

    def _joined(self, token_ids: Tensor, states: Tensor) -> Tensor:
        embedded = self._surroundings.embedding.index_select(0, token_ids)
        parts = (
            rms_norm(embedded, self._weights.token_norm, self._eps),
            rms_norm(states, self._weights.state_norm, self._eps),
        )
        return torch.mm(torch.cat(parts, -1), self._weights.join)

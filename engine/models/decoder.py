"""The decoder all architectures share: embedding, layers of attention and MLP, final norm, output head."""

import torch
from torch import Tensor

from ...kernels.decode_stack import decode_stack
from ...kernels.linear import multiply
from ...kernels.paged_step import PagedStep
from ...kernels.rms_norm import add_rms_norm, rms_norm
from ...kvtransfer.layout import KvLayout
from ..batch import DecodeBatch, PrefillBatch
from .attention import Geometry, PrefillStep
from .config import ModelConfig
from .halves import Pass, decode_halves, interleaved, joined, prefill_halves
from .layer import DecoderWeights, Layer, stack_of
from .mlp import Mlp, MoeMlp
from .mtp import MtpLayer


class Decoder:
    """Implements `Model`."""

    def __init__(
        self,
        config: ModelConfig,
        geometry: Geometry,
        weights: DecoderWeights,
        layers: list[Layer],
        *,
        digest: str,
        is_in_step: bool = False,
        is_paged: bool = False,
        kv_dtype: torch.dtype | None = None,
        draft: MtpLayer | None = None,
    ) -> None:
        """Put the parts together.

        is_in_step  other ranks wait for every layer of every step
        is_paged    decode steps have shapes that only the bucket decides, as a GPU wants them
        kv_dtype    of the pool; absent: the dtype of what is computed
        """
        self.config = config
        self.draft = draft
        self._geometry = geometry
        self._weights = weights
        self.layers = layers
        self._digest = digest
        self._is_in_step = is_in_step
        self._is_paged = is_paged
        self._kv_dtype = kv_dtype or weights.embedding.dtype
        self._decode_step = geometry.paged_step if is_paged else geometry.decode_step
        self._stack = stack_of(layers, weights.norm, config.rms_norm_eps)

    @property
    def moe_layers(self) -> list[MoeMlp]:
        """The mixtures of experts, in order."""
        return [layer.mlp for layer in self.layers if isinstance(layer.mlp, MoeMlp)]

    def kv_layout(self, block_tokens: int) -> KvLayout:
        """Return what a KV block of this model is made of."""
        return KvLayout(
            format=self._geometry.format,
            dtype=str(self._kv_dtype).removeprefix("torch."),
            num_layers=self.config.num_layers + (self.draft is not None),
            draft_layers=int(self.draft is not None),
            kv_heads=self._geometry.kv_heads,
            values_per_token=self._geometry.values_per_token,
            block_tokens=block_tokens,
            model_digest=self._digest,
        )

    def new_kv_pool(self, num_blocks: int, block_tokens: int) -> Tensor:
        """Return a zeroed pool."""
        shape = self._geometry.pool_shape(num_blocks, block_tokens)
        return torch.zeros(shape, dtype=self._kv_dtype, device=self._weights.embedding.device)

    @torch.inference_mode()
    def prefill(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """Compute and write the KV of prompt chunks; return float32 logits of the rows asked for."""
        step = self.prefill_step(batch, kv)
        x, stream = self.embed(batch.token_ids)
        last = len(self.layers) - 1
        for index in range(last):
            x = self.feed_forward(index, self.layers[index].attention.prefill(x, kv, step, index), stream)
        # In the last layer only the rows with wanted logits matter.
        x = self._attend_last(x, kv, step, batch.logit_rows)
        if not x.shape[0] and not self._is_in_step:
            return x.new_empty(0, self.config.vocab_size, dtype=torch.float32)
        return self.logits(self.feed_forward(last, x, stream.index_select(0, batch.logit_rows)))

    def _attend_last(self, x: Tensor, kv: Tensor, step: PrefillStep, wanted: Tensor) -> Tensor:
        """Write the KV of all rows in the last layer; attend from those wanted: `[wanted, hidden]`."""
        index = len(self.layers) - 1
        attention, ends = self.layers[index].attention, step.ends
        if ends is None:
            return attention.prefill(x, kv, step, index).index_select(0, wanted)
        attention.write(x, kv, step.turns, step.token_rows[index])
        return attention.decode(x.index_select(0, wanted), kv, ends, index)

    @torch.inference_mode()
    def decode(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Advance each sequence by one token; return float32 logits, zero in dead rows."""
        if self._is_paged:
            return self.logits(self._all_rows(batch, kv))
        size = batch.token_ids.shape[0]
        if not batch.live:
            return self._weights.head.new_zeros(size, self.config.vocab_size, dtype=torch.float32)
        logits = self.logits(self._live_rows(batch, kv))
        if batch.live == size:
            return logits
        return torch.cat((logits, logits.new_zeros(size - batch.live, logits.shape[1])))

    @torch.inference_mode()
    def decode_states(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Advance each row by one token; return the final states of live rows, `[live, hidden]`."""
        if self._is_paged:
            return self._all_rows(batch, kv)[: batch.live]
        return self._live_rows(batch, kv)

    @torch.inference_mode()
    def prefill_states(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """Compute and write the KV of prompt chunks; return the final states of all tokens, `[T, hidden]`."""
        step = self.prefill_step(batch, kv)
        x, stream = self.embed(batch.token_ids)
        for index, layer in enumerate(self.layers):
            x = self.feed_forward(index, layer.attention.prefill(x, kv, step, index), stream)
        return x

    def _live_rows(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        step = self._geometry.decode_step(batch, kv, self._weights.rope)
        x, stream = self.embed(batch.token_ids[: batch.live])
        if self._stack is not None and isinstance(step, PagedStep):
            return decode_stack(x, stream, kv, self._stack, step)
        for index, layer in enumerate(self.layers):
            x = self.feed_forward(index, layer.attention.decode(x, kv, step, index), stream)
        return x

    def _all_rows(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Compute dead rows too, which reach no expert: no shape depends on anything but the bucket."""
        step = self._geometry.paged_step(batch, kv, self._weights.rope)
        dead = batch.context_lens.eq(0).unsqueeze(1)
        x, stream = self.embed(batch.token_ids)
        for index, layer in enumerate(self.layers):
            x = self.feed_forward(index, layer.attention.decode(x, kv, step, index), stream, dead)
        return x.masked_fill_(dead, 0.0)

    def prefill_step(self, batch: PrefillBatch, kv: Tensor) -> PrefillStep:
        """Prepare what all layers of a prefill step share."""
        return self._geometry.prefill_step(batch, kv, self._weights.rope)

    def embed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Begin a step: the first layer's normalised input, and the stream that layers add to in place."""
        stream = self._weights.embedding.index_select(0, token_ids)
        return rms_norm(stream, self.layers[0].input_norm, self.config.rms_norm_eps), stream

    def feed_forward(self, index: int, x: Tensor, stream: Tensor, dead: Tensor | None = None) -> Tensor:
        """From what attention of a layer gave to the normalised input of what follows the layer."""
        layer, eps = self.layers[index], self.config.rms_norm_eps
        x = layer.mlp(add_rms_norm(x, stream, layer.mlp_norm, eps), dead)
        return add_rms_norm(x, stream, self._norm_after(index), eps)

    def logits(self, x: Tensor) -> Tensor:
        """End a step: float32 logits of the rows given."""
        return multiply(x, self._weights.head).float()

    @torch.inference_mode()
    def prefill_in_halves(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """Do what `prefill` does, one half's transfers under the other's computation; two tokens."""
        first, second = (self._prefill_steps(half, kv) for half in prefill_halves(batch))
        return torch.cat(interleaved(first, second))

    @torch.inference_mode()
    def decode_in_halves(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        """Do what `decode` does, one half's transfers under the other's computation; two live rows."""
        first, second = (self._decode_steps(half, kv) for half in decode_halves(batch))
        return joined(interleaved(first, second), batch.token_ids.shape[0])

    def _prefill_steps(self, batch: PrefillBatch, kv: Tensor) -> Pass[Tensor]:
        step = self.prefill_step(batch, kv)
        eps = self.config.rms_norm_eps
        x, stream = self.embed(batch.token_ids)
        for index, layer in enumerate(self.layers):
            x = layer.attention.prefill(x, kv, step, index)
            if layer is self.layers[-1]:
                x, stream = (rows.index_select(0, batch.logit_rows) for rows in (x, stream))
            x = yield from _mlp_steps(layer.mlp, add_rms_norm(x, stream, layer.mlp_norm, eps))
            x = add_rms_norm(x, stream, self._norm_after(index), eps)
        return self.logits(x)

    def _decode_steps(self, batch: DecodeBatch, kv: Tensor) -> Pass[Tensor]:
        step = self._decode_step(batch, kv, self._weights.rope)
        eps = self.config.rms_norm_eps
        x, stream = self.embed(batch.token_ids)
        for index, layer in enumerate(self.layers):
            x = layer.attention.decode(x, kv, step, index)
            x = yield from _mlp_steps(layer.mlp, add_rms_norm(x, stream, layer.mlp_norm, eps))
            x = add_rms_norm(x, stream, self._norm_after(index), eps)
        return self.logits(x)

    def _norm_after(self, index: int) -> Tensor:
        """The norm that follows layer `index`: the next layer's, or the final one."""
        following = index + 1
        return self.layers[following].input_norm if following < len(self.layers) else self._weights.norm


def _mlp_steps(mlp: Mlp, x: Tensor) -> Pass[Tensor]:
    if isinstance(mlp, MoeMlp):
        return (yield from mlp.steps(x))
    return mlp(x)

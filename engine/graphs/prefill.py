"""Prompt chunks, piece by piece: graphs of what takes tokens one by one, and attention eagerly between them.

    piece 0      embedding, norm, layer 0's projections and KV
    attention 0  eager: its shapes are those of the prompts
    piece 1      layer 0's output projection and MLP, layer 1's projections and KV
    ...
    tail         the last layer's output projection and MLP for the rows whose logits are wanted, eager

Tokens are padded to one of a few sizes. Padding is computed, goes to no expert and writes the null block.
It pays for short chunks, where launching takes longer than computing; longer ones run eagerly.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..batch import PrefillBatch
from ..models.attention import PrefillStep
from ..models.decoder import Decoder
from .backend import Graph, GraphBackend


@dataclass(frozen=True, slots=True)
class Buffers:
    """What pieces and attention hand each other; smaller sizes are the first rows. T tokens, L layers."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    dead: Tensor
    """[T, 1] bool"""
    turns: Tensor
    """[T, ...] complex64"""
    token_rows: Tensor
    """[L, T * rows of a token] int64"""
    stream: Tensor
    """[T, hidden]"""
    q: Tensor
    new: Tensor
    """What attention's `enter` gives"""
    attended: Tensor
    """[T, width], what attention gives; padding keeps what an earlier chunk left"""

    def window(self, size: int) -> "Buffers":
        """The first `size` tokens."""
        of_a_token = self.token_rows.shape[1] // self.token_ids.shape[0]
        return Buffers(
            token_ids=self.token_ids[:size],
            positions=self.positions[:size],
            slots=self.slots[:size],
            dead=self.dead[:size],
            turns=self.turns[:size],
            token_rows=self.token_rows[:, : size * of_a_token],
            stream=self.stream[:size],
            q=self.q[:size],
            new=self.new[:size],
            attended=self.attended[:size],
        )


class PrefillGraphs:
    """Captured pieces of a model's prompt chunks over one pool."""

    def __init__(self, model: Decoder, kv: Tensor, largest: int) -> None:
        """Make buffers for chunks of at most `largest` tokens; what shapes they have, one chunk tells."""
        self._model = model
        self._kv = kv
        self._buffers = self._make_buffers(largest)
        self._graphs: dict[int, list[Graph]] = {}

    @property
    def sizes(self) -> list[int]:
        """Numbers of tokens that are captured, in order."""
        return sorted(self._graphs)

    def capture(self, backend: GraphBackend, sizes: Iterable[int], captured: Callable[[], None]) -> None:
        """Capture all pieces of the sizes, largest first; `captured` is called after each size."""
        for size in sorted(sizes, reverse=True):
            window = self._buffers.window(size)
            pieces = [self._piece(index, window) for index in range(len(self._model.layers))]
            self._graphs[size] = [backend.capture(piece) for piece in pieces]
            captured()

    def size_of(self, tokens: int) -> int | None:
        """The size that a chunk of so many tokens is padded to; None where it is longer than all."""
        sizes = self.sizes
        place = bisect_left(sizes, tokens)
        return sizes[place] if place < len(sizes) else None

    def replay(self, batch: PrefillBatch, size: int) -> Tensor:
        """Compute a chunk padded to `size`: float32 logits of the rows wanted."""
        tokens, window = batch.token_ids.shape[0], self._buffers.window(size)
        step = self._stage(batch, window)
        for index, graph in enumerate(self._graphs[size]):
            graph.replay()
            attention = self._model.layers[index].attention
            q, new = window.q[:tokens], window.new[:tokens]
            window.attended[:tokens].copy_(attention.attend_prompts(q, new, self._kv, step, index))
        return self._tail(batch.logit_rows, window)

    def _stage(self, batch: PrefillBatch, window: Buffers) -> PrefillStep:
        tokens = batch.token_ids.shape[0]
        for target, values in (
            (window.token_ids, batch.token_ids),
            (window.positions, batch.positions),
            (window.slots, batch.slots),
        ):
            target[:tokens].copy_(values)
            target[tokens:].zero_()
        window.dead.fill_(True)[:tokens].fill_(False)
        step = self._model.prefill_step(
            replace(
                batch, token_ids=window.token_ids, positions=window.positions, slots=window.slots
            ), self._kv
        )  # fmt: skip
        window.turns.copy_(step.turns)
        torch.stack(step.token_rows, out=window.token_rows)
        return step

    def _piece(self, index: int, window: Buffers) -> Callable[[], None]:
        model = self._model
        attention = model.layers[index].attention

        def enter(x: Tensor) -> None:
            q, new = attention.enter(x, self._kv, window.turns, window.token_rows[index])
            window.q.copy_(q)
            window.new.copy_(new)

        def first() -> None:
            x, stream = model.embed(window.token_ids)
            window.stream.copy_(stream)
            enter(x)

        def between() -> None:
            x = model.layers[index - 1].attention.leave(window.attended)
            enter(model.feed_forward(index - 1, x, window.stream, window.dead))

        return between if index else first

    def _tail(self, rows: Tensor, window: Buffers) -> Tensor:
        model = self._model
        if not rows.shape[0]:
            return window.stream.new_empty(0, model.config.vocab_size, dtype=torch.float32)
        attended, stream = window.attended.index_select(0, rows), window.stream.index_select(0, rows)
        last = len(model.layers) - 1
        return model.logits(model.feed_forward(last, model.layers[last].attention.leave(attended), stream))

    def _make_buffers(self, largest: int) -> Buffers:
        """Allocate for `largest` tokens what a chunk of padding alone shows the shapes of."""
        zeros = torch.zeros(largest, dtype=torch.int64, device=self._kv.device)
        chunk = PrefillBatch(
            token_ids=zeros,
            positions=zeros,
            slots=zeros,
            query_starts=[0, largest],
            context_lens=[0],
            block_tables=zeros[:1].int().unsqueeze(0),
            logit_rows=zeros[:0],
        )
        step = self._model.prefill_step(chunk, self._kv)
        x, stream = self._model.embed(zeros)
        attention = self._model.layers[0].attention
        q, new = attention.enter(x, self._kv, step.turns, step.token_rows[0])
        one = replace(step, query_starts=[0, 1])
        attended = attention.attend_prompts(q[:1], new[:1], self._kv, one, 0)
        return Buffers(
            token_ids=zeros,
            positions=zeros.clone(),
            slots=zeros.clone(),
            dead=torch.ones(largest, 1, dtype=torch.bool, device=zeros.device),
            turns=step.turns,
            token_rows=torch.stack(step.token_rows),
            stream=stream,
            q=torch.zeros_like(q, memory_format=torch.contiguous_format),
            new=torch.zeros_like(new, memory_format=torch.contiguous_format),
            attended=attended.new_zeros(largest, attended.shape[1]),
        )

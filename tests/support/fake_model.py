"""A model whose next token is a function of the whole history, as read back from the KV pool.

Each slot of the pool holds a token id and its position. A wrong block table, slot, context length or a block
that someone else wrote into gives an `AssertionError` or other tokens than `tokens_after` foretells.
"""

import random
from collections.abc import Sequence as Ids
from dataclasses import replace

import torch
from torch import Tensor

from baton.engine.batch import DecodeBatch, PrefillBatch
from baton.engine.models.config import MlaConfig, ModelConfig, MoeConfig, RopeConfig, Scoring
from baton.kvtransfer.layout import KvFormat, KvLayout

VOCABULARY = 64

CONFIG = ModelConfig(
    model_type="fake",
    vocab_size=VOCABULARY,
    hidden_size=1,
    num_layers=1,
    num_heads=1,
    intermediate_size=1,
    max_position_embeddings=4096,
    rms_norm_eps=1e-6,
    rope=RopeConfig(theta=1e4, dim=1),
    attention=MlaConfig(
        q_lora_rank=None, kv_lora_rank=1, qk_nope_head_dim=1, qk_rope_head_dim=1, v_head_dim=1
    ),
    moe=MoeConfig(
        num_experts=1,
        top_k=1,
        intermediate_size=1,
        shared_intermediate_size=0,
        scoring=Scoring.SOFTMAX,
        num_groups=1,
        top_groups=1,
        normalise=False,
        scale=1.0,
    ),
    dense_layers=(),
    mtp_layers=0,
    tie_word_embeddings=False,
    dtype="float32",
    fp8_block=None,
    bos_token_id=None,
    eos_token_ids=(),
)


def logits_after(history: Ids[int]) -> list[float]:
    """Return logits that depend on every token of the history and on their order."""
    generator = random.Random(repr(list(history)))
    return [generator.gauss(0.0, 2.0) for _ in range(VOCABULARY)]


def tokens_after(prompt: Ids[int], count: int) -> list[int]:
    """Return the greedy continuation."""
    history = list(prompt)
    for _ in range(count):
        logits = logits_after(history)
        history.append(logits.index(max(logits)))
    return history[len(prompt) :]


class FakeModel:
    """Implements `Model`; counts the tokens it was given to compute."""

    def __init__(self, *, layers: int = 1) -> None:
        """A second layer is for a draft."""
        self.config = CONFIG
        self._layers = layers
        self.prefilled_tokens = 0
        self.decode_sizes: list[int] = []
        self.broken_by: int | None = None
        """A token that makes a step raise."""
        self.blinded_by: int | None = None
        """A token whose logits are NaN."""

    def kv_layout(self, block_tokens: int) -> KvLayout:
        return KvLayout(
            format=KvFormat.MLA,
            dtype="float32",
            num_layers=self._layers,
            kv_heads=1,
            values_per_token=2,
            block_tokens=block_tokens,
            model_digest="fake",
        )

    def new_kv_pool(self, num_blocks: int, block_tokens: int) -> Tensor:
        return torch.full((num_blocks, self._layers, block_tokens, 2), -1.0)

    def prefill(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        self.prefilled_tokens += len(batch.token_ids)
        self._write(batch.token_ids, batch.positions, batch.slots, kv)
        row_of = {}
        for index, start in enumerate(batch.query_starts[:-1]):
            for row in range(start, batch.query_starts[index + 1]):
                assert batch.positions[row] == batch.context_lens[index] + row - start
                row_of[row] = index
        rows = [
            self._logits(batch.block_tables[row_of[row]], int(batch.positions[row]) + 1, kv)
            for row in batch.logit_rows.tolist()
        ]
        return torch.tensor(rows).reshape(-1, VOCABULARY)

    def decode(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        size, live = len(batch.token_ids), batch.live
        self.decode_sizes.append(size)
        for tensor in (batch.token_ids, batch.positions, batch.slots, batch.block_tables, batch.context_lens):
            assert len(tensor) == size
            assert not tensor[live:].any(), "a dead row is not zero"
        self._write(batch.token_ids, batch.positions, batch.slots, kv)
        lengths = batch.context_lens.tolist()
        rows = [self._logits(batch.block_tables[row], lengths[row], kv) for row in range(live)]
        return torch.tensor(rows + [[0.0] * VOCABULARY] * (size - live))

    def prefill_states(self, batch: PrefillBatch, kv: Tensor) -> Tensor:
        """A token's state is its logits."""
        return self.prefill(replace(batch, logit_rows=torch.arange(len(batch.token_ids))), kv)

    def decode_states(self, batch: DecodeBatch, kv: Tensor) -> Tensor:
        return self.decode(batch, kv)[: batch.live]

    def logits(self, states: Tensor) -> Tensor:
        return states

    def _write(self, token_ids: Tensor, positions: Tensor, slots: Tensor, kv: Tensor) -> None:
        if self.broken_by is not None and self.broken_by in token_ids:
            raise RuntimeError("the model broke")
        block_tokens = kv.shape[2]
        kv[slots // block_tokens, 0, slots % block_tokens] = torch.stack([token_ids, positions], -1).float()

    def _logits(self, table: Tensor, length: int, kv: Tensor) -> list[float]:
        slots = kv[table.long(), 0].reshape(-1, 2)[:length]
        assert slots[:, 1].tolist() == list(range(length)), f"positions read back: {slots[:, 1].tolist()}"
        history = [int(token) for token in slots[:, 0]]
        if self.blinded_by is not None and self.blinded_by in history:
            return [float("nan")] * VOCABULARY
        return logits_after(history)


class FakeDraft:
    """Implements `DraftLayer` in layer 1 of a `FakeModel`'s pool: each slot holds the token after its place.

    `skill` of its guesses are those that the model will make, the others come from other logits.
    """

    def __init__(self, skill: float) -> None:
        self._skill = skill

    def write(self, token_ids: Tensor, positions: Tensor, slots: Tensor, states: Tensor, kv: Tensor) -> None:
        assert len(token_ids) == len(positions) == len(slots) == len(states)
        block_tokens = kv.shape[2]
        kv[slots // block_tokens, 1, slots % block_tokens] = torch.stack([token_ids, positions], -1).float()

    def predict(self, batch: DecodeBatch, states: Tensor, kv: Tensor) -> tuple[Tensor, Tensor]:
        live = batch.live
        self.write(batch.token_ids[:live], batch.positions[:live], batch.slots[:live], states, kv)
        rows = [
            self.logits(self._history(batch.block_tables[row], int(batch.context_lens[row]), kv))
            for row in range(live)
        ]
        return torch.tensor(rows), states

    def logits(self, history: list[int]) -> list[float]:
        """What it thinks comes next."""
        is_right = random.Random(repr(history)).random() < self._skill
        return logits_after(history if is_right else [*history, 0])

    def _history(self, table: Tensor, length: int, kv: Tensor) -> list[int]:
        first, entries = kv[table[0].long(), 0, 0, 0], kv[table.long(), 1].reshape(-1, 2)[:length]
        assert entries[:, 1].tolist() == list(range(length)), "the draft's KV has gaps"
        return [int(first), *(int(token) for token in entries[:, 0])]

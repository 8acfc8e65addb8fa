"""The tensors of one step: what a scheduler stages and a model reads. Nothing else passes between them.

T tokens in the step, S sequences, R rows whose logits are wanted, B decode rows (a bucket size), M blocks a
sequence at most. A slot is `block_id * block_tokens + offset`. Block 0 is the null block: padding rows read
and write it, no sequence owns it.
"""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PrefillBatch:
    """Chunks of several prompts, packed without padding."""

    token_ids: Tensor
    """[T] int64"""
    positions: Tensor
    """[T] int64, position in the sequence"""
    slots: Tensor
    """[T] int64, where each token's KV is written"""
    query_starts: list[int]
    """[S + 1], first row of each sequence's chunk; the last entry is T"""
    context_lens: list[int]
    """[S], tokens of each sequence already in the cache before this chunk"""
    block_tables: Tensor
    """[S, M] int32, padded with 0"""
    logit_rows: Tensor
    """[R] int64, rows of `token_ids` whose next-token logits are wanted"""


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """One token of each running sequence, padded with dead rows to a bucket size."""

    token_ids: Tensor
    """[B] int64, 0 in dead rows"""
    positions: Tensor
    """[B] int64, 0 in dead rows"""
    slots: Tensor
    """[B] int64, 0 (the null block) in dead rows"""
    block_tables: Tensor
    """[B, M] int32, 0 in dead rows and padding"""
    context_lens: Tensor
    """[B] int32, tokens in the cache including this one; 0 in dead rows"""
    live: int
    """The first `live` rows are sequences, the rest is padding."""
    continued: list[bool] | None = None
    """[live], whether a row holds the sequence it held in the step before, which is now one token longer;
    None: that is not known"""
    whole: "DecodeBatch | None" = None
    """The step that these rows are a half of; its `continued` counts"""
    first: int = 0
    """Where in the whole step they begin"""

    @property
    def rows(self) -> range:
        """The live rows, counted in the whole step."""
        return range(self.first, self.first + self.live)

    def live_rows(self) -> "DecodeBatch":
        """Return the batch without its padding."""
        live = self.live
        if live == self.token_ids.shape[0]:
            return self
        return replace(
            self,
            token_ids=self.token_ids[:live],
            positions=self.positions[:live],
            slots=self.slots[:live],
            block_tables=self.block_tables[:live],
            context_lens=self.context_lens[:live],
        )

"""Plays scheduler by hand: owns a KV pool and block tables, stages batches, and asks a model for logits.

Blocks are handed out in a shuffled order, so that a model which takes neighbouring blocks for granted fails.
"""

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from baton.engine.batch import DecodeBatch, PrefillBatch
from baton.engine.models import Model


@dataclass
class Sequence:
    """Tokens known so far, the blocks that hold their KV, and how many are computed."""

    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0


class Driver:
    """A model with a pool of `num_blocks` blocks; block 0 is the null block."""

    def __init__(self, model: Model, *, block_tokens: int = 8, num_blocks: int = 128) -> None:
        self.model = model
        self.block_tokens = block_tokens
        self.pool = model.new_kv_pool(num_blocks, block_tokens)
        self.wants_logits = True
        self._free = list(range(1, num_blocks))
        random.Random(7).shuffle(self._free)
        self._rows: list[tuple[int, int]] = []
        """What the rows of the last decode step were: a sequence and its position."""

    def sequence(self, tokens: list[int], *, shares: Sequence | None = None, blocks: int = 0) -> Sequence:
        """Start a sequence; its first `blocks` blocks may be another's, whose tokens must be the same."""
        new = Sequence(list(tokens))
        if shares is not None:
            new.computed = blocks * self.block_tokens
            assert new.tokens[: new.computed] == shares.tokens[: new.computed]
            new.blocks = shares.blocks[:blocks]
        return new

    def prefill(self, chunks: list[tuple[Sequence, int]]) -> Tensor:
        """Compute the next `n` tokens of each sequence in one step; logits of each chunk's last token."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for sequence, count in chunks:
            span = range(sequence.computed, sequence.computed + count)
            tokens += [sequence.tokens[position] for position in span]
            positions += span
            slots += [self._slot(sequence, position) for position in span]
            starts.append(len(tokens))
        batch = PrefillBatch(
            token_ids=torch.tensor(tokens),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            query_starts=starts,
            context_lens=[sequence.computed for sequence, _ in chunks],
            block_tables=self._tables([sequence for sequence, _ in chunks], len(chunks)),
            logit_rows=torch.tensor(starts[1:] if self.wants_logits else [], dtype=torch.int64) - 1,
        )
        for sequence, count in chunks:
            sequence.computed += count
        return self.model.prefill(batch, self.pool)

    def decode(self, sequences: list[Sequence], *, bucket: int | None = None) -> Tensor:
        """Compute the last token of each sequence, padded to `bucket` rows; logits of the live rows."""
        live, size = len(sequences), bucket or len(sequences)
        dead = [0] * (size - live)
        positions = [len(sequence.tokens) - 1 for sequence in sequences]
        rows = list(zip(sequences, positions, strict=True))
        batch = DecodeBatch(
            token_ids=torch.tensor([sequence.tokens[-1] for sequence in sequences] + dead),
            positions=torch.tensor(positions + dead),
            slots=torch.tensor([self._slot(sequence, position) for sequence, position in rows] + dead),
            block_tables=self._tables(sequences, size),
            context_lens=torch.tensor([position + 1 for position in positions] + dead, dtype=torch.int32),
            live=live,
            continued=[
                row < len(self._rows) and self._rows[row] == (id(sequence), position - 1)
                for row, (sequence, position) in enumerate(rows)
            ],
        )
        self._rows = [(id(sequence), position) for sequence, position in rows]
        for sequence in sequences:
            sequence.computed += 1
        logits = self.model.decode(batch, self.pool)
        assert logits.shape == (size, self.model.config.vocab_size)
        return logits[:live]

    def generate(
        self, sequences: list[Sequence], count: int, *, chunk: int = 1 << 20, bucket: int | None = None
    ) -> list[list[int]]:
        """Prefill in chunks of at most `chunk` tokens, then decode together; greedy tokens of each."""
        lengths = [len(sequence.tokens) for sequence in sequences]
        while pending := [sequence for sequence in sequences if sequence.computed < len(sequence.tokens)]:
            chunks = [(each, min(chunk, len(each.tokens) - each.computed)) for each in pending]
            logits = self.prefill(chunks)
            for (sequence, _), row in zip(chunks, logits, strict=True):
                if sequence.computed == len(sequence.tokens):
                    sequence.tokens.append(int(row.argmax()))
                    sequence.computed = len(sequence.tokens)
        for sequence in sequences:
            sequence.computed = len(sequence.tokens) - 1
        for _ in range(count - 1):
            logits = self.decode(sequences, bucket=bucket)
            for sequence, row in zip(sequences, logits, strict=True):
                sequence.tokens.append(int(row.argmax()))
        return [sequence.tokens[length:] for sequence, length in zip(sequences, lengths, strict=True)]

    def _slot(self, sequence: Sequence, position: int) -> int:
        while len(sequence.blocks) <= position // self.block_tokens:
            sequence.blocks.append(self._free.pop())
        return (
            sequence.blocks[position // self.block_tokens] * self.block_tokens + position % self.block_tokens
        )

    def _tables(self, sequences: list[Sequence], rows: int) -> Tensor:
        tables = torch.zeros(rows, 1 + max(len(sequence.blocks) for sequence in sequences), dtype=torch.int32)
        for row, sequence in enumerate(sequences):
            tables[row, : len(sequence.blocks)] = torch.tensor(sequence.blocks, dtype=torch.int32)
        return tables

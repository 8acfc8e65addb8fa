"""MLA prefill over packed chunks equals attention over each whole sequence, long cached contexts too."""

import pytest
import torch
from torch import Tensor

from baton.kernels.kv_rows import mla_token_rows, write_rows
from baton.kernels.mla_prefill import CONTEXT_PIECE_TOKENS, MlaExpansion, mla_prefill_attention

HEADS, NOPE, ROPE, VALUE, RANK = 2, 4, 2, 3, 6
BLOCK_TOKENS = 16
SCALE = 0.4


def whole_sequence(q: Tensor, entries: Tensor, expansion: MlaExpansion) -> Tensor:
    """Attention of the last queries over all entries, one head at a time, in float64."""
    expanded = (entries[:, :RANK].double() @ expansion.weight.double()).view(-1, HEADS, NOPE + VALUE)
    future = torch.arange(len(entries)) > torch.arange(len(entries) - len(q), len(entries)).unsqueeze(1)
    heads = []
    for head in range(HEADS):
        keys = torch.cat((expanded[:, head, :NOPE], entries[:, RANK:].double()), 1)
        scores = (q[:, head].double() @ keys.t() * SCALE).masked_fill(future, float("-inf"))
        heads.append(scores.softmax(-1) @ expanded[:, head, NOPE:])
    return torch.stack(heads, 1).flatten(1).float()


@pytest.mark.parametrize(
    "chunks",
    [
        [(0, 5)],
        [(0, 5), (20, 3), (16, 17), (1, 1)],
        [(CONTEXT_PIECE_TOKENS + 100, 4), (0, 2)],
    ],
    ids=["no context", "mixed", "context in two pieces"],
)
def test_each_chunk_sees_its_context_and_itself(chunks: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(5)
    expansion = MlaExpansion(
        torch.randn(RANK, HEADS * (NOPE + VALUE), generator=generator), HEADS, NOPE, VALUE
    )
    tokens = sum(context for context, _ in chunks)
    pool = torch.zeros(2 + tokens // BLOCK_TOKENS, 1, BLOCK_TOKENS, RANK + ROPE)
    order = torch.randperm(pool.shape[0] * BLOCK_TOKENS, generator=generator)  # any place will do
    queries, fresh, rows, expected, starts, used = [], [], [], [], [0], 0
    for context, count in chunks:
        entries = torch.randn(context + count, RANK + ROPE, generator=generator)
        q = torch.randn(count, HEADS, NOPE + ROPE, generator=generator)
        rows.append(mla_token_rows(order[used : used + context], 1, BLOCK_TOKENS)[0])
        used += context
        write_rows(pool, rows[-1], entries[:context])
        queries.append(q)
        fresh.append(entries[context:])
        expected.append(whole_sequence(q, entries, expansion))
        starts.append(starts[-1] + count)

    actual = mla_prefill_attention(
        torch.cat(queries),
        torch.cat(fresh),
        pool,
        query_starts=starts,
        context_rows=rows,
        expansion=expansion,
        scale=SCALE,
    )

    torch.testing.assert_close(actual, torch.cat(expected))

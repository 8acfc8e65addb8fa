"""GQA prefill over packed chunks equals attention over each whole sequence, long cached contexts too."""

import pytest
import torch
from torch import Tensor

from baton.kernels.gqa_prefill import CONTEXT_PIECE_BLOCKS, gqa_prefill_attention
from baton.kernels.kv_rows import gqa_token_rows, write_rows

HEADS, KV_HEADS, DIM, BLOCK_TOKENS = 4, 2, 5, 3
PIECE_TOKENS = CONTEXT_PIECE_BLOCKS * BLOCK_TOKENS
SCALE = 0.4


def whole_sequence(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of the last queries over all keys, one head at a time, in float64."""
    future = torch.arange(len(k)) > torch.arange(len(k) - len(q), len(k)).unsqueeze(1)
    heads = []
    for head in range(HEADS):
        shared = head // (HEADS // KV_HEADS)
        scores = (q[:, head].double() @ k[:, shared].double().t() * SCALE).masked_fill(future, float("-inf"))
        heads.append(scores.softmax(-1) @ v[:, shared].double())
    return torch.stack(heads, 1).flatten(1).float()


@pytest.mark.parametrize(
    "chunks",
    [[(0, 5)], [(0, 5), (7, 3), (6, 17), (1, 1)], [(PIECE_TOKENS + 10, 4), (0, 2)]],
    ids=["no context", "mixed", "context in two pieces"],
)
def test_each_chunk_sees_its_context_and_itself(chunks: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(5)
    blocks = [-(-context // BLOCK_TOKENS) for context, _ in chunks]
    pool = torch.full((1 + sum(blocks), 1, 2, KV_HEADS, BLOCK_TOKENS, DIM), 1e4)
    free = (1 + torch.randperm(sum(blocks), generator=generator)).tolist()
    packed, rows, expected, starts = [], [], [], [0]
    for (context, count), used in zip(chunks, blocks, strict=True):
        table = torch.tensor([free.pop() for _ in range(used)], dtype=torch.int64)
        k, v = torch.randn(2, context + count, KV_HEADS, DIM, generator=generator)
        q = torch.randn(count, HEADS, DIM, generator=generator)
        slots = (table.unsqueeze(1) * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS)).flatten()[:context]
        cached = torch.stack((k[:context], v[:context]), 1).reshape(-1, DIM)
        write_rows(pool, gqa_token_rows(slots, 1, KV_HEADS, BLOCK_TOKENS)[0], cached)
        rows.append(table * 2 * KV_HEADS + torch.arange(2 * KV_HEADS).unsqueeze(1))
        packed.append((q, k[context:], v[context:]))
        expected.append(whole_sequence(q, k, v))
        starts.append(starts[-1] + count)

    actual = gqa_prefill_attention(
        *(torch.cat(parts) for parts in zip(*packed, strict=True)),
        pool,
        query_starts=starts,
        context_lens=[context for context, _ in chunks],
        context_rows=rows,
        scale=SCALE,
    )

    torch.testing.assert_close(actual, torch.cat(expected))

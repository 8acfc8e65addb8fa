"""A step in two halves, so that one half's transfers run under the other half's computation.

The first half is always ahead: in each layer it has written its KV before the second half attends. So a
prompt may be cut anywhere; its second part finds the first in the cache.
"""

from collections.abc import Generator
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from ..batch import DecodeBatch, PrefillBatch

T = TypeVar("T")

Pass = Generator[None, None, T]
"""A pass through the layers that yields whenever it has a transfer on its way."""


def alone(one: Pass[T]) -> T:
    """Run one pass to its end."""
    while True:
        try:
            next(one)
        except StopIteration as end:
            result: T = end.value
            return result


def interleaved(first: Pass[T], second: Pass[T]) -> tuple[T, T]:
    """Run two passes by turns, the first ahead; both yield equally often."""
    while True:
        try:
            next(first)
        except StopIteration as end:
            first_result: T = end.value
            return first_result, alone(second)
        next(second)


def decode_halves(batch: DecodeBatch) -> tuple[DecodeBatch, DecodeBatch]:
    """Share the live rows out to two batches without padding; there are at least two."""
    middle = (batch.live + 1) // 2
    return _rows(batch, 0, middle), _rows(batch, middle, batch.live)


def prefill_halves(batch: PrefillBatch) -> tuple[PrefillBatch, PrefillBatch]:
    """Cut a step of at least two tokens in the middle, through a prompt if need be."""
    tokens = batch.token_ids.shape[0]
    return _tokens(batch, 0, (tokens + 1) // 2), _tokens(batch, (tokens + 1) // 2, tokens)


def _rows(batch: DecodeBatch, start: int, end: int) -> DecodeBatch:
    return DecodeBatch(
        token_ids=batch.token_ids[start:end],
        positions=batch.positions[start:end],
        slots=batch.slots[start:end],
        block_tables=batch.block_tables[start:end],
        context_lens=batch.context_lens[start:end],
        live=end - start,
        whole=batch,
        first=start,
    )


def _tokens(batch: PrefillBatch, start: int, end: int) -> PrefillBatch:
    bounds = list(zip(batch.query_starts, batch.query_starts[1:], strict=False))
    parts = [
        (index, max(first, start), min(last, end))
        for index, (first, last) in enumerate(bounds)
        if max(first, start) < min(last, end)
    ]
    rows = batch.logit_rows
    return replace(
        batch,
        token_ids=batch.token_ids[start:end],
        positions=batch.positions[start:end],
        slots=batch.slots[start:end],
        query_starts=[0, *(last - start for _, _, last in parts)],
        context_lens=[batch.context_lens[index] + first - bounds[index][0] for index, first, _ in parts],
        block_tables=batch.block_tables[[index for index, _, _ in parts]],
        logit_rows=rows[(rows >= start) & (rows < end)] - start,
    )


def joined(halves: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Put the logits of decode halves together, `size` rows, zero in dead ones."""
    first, second = halves
    logits = first.new_zeros(size, first.shape[1])
    logits[: first.shape[0]] = first
    logits[first.shape[0] : first.shape[0] + second.shape[0]] = second
    return logits

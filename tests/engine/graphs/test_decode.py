"""Captured sizes share their tensors, the largest is captured first, and nothing of other batches stays."""

import torch
from torch import Tensor

from baton.engine.batch import DecodeBatch
from baton.engine.graphs.decode import DecodeGraphs
from baton.engine.graphs.rehearsal import Rehearsal

ROWS, BLOCKS, VOCABULARY = 4, 6, 3


class Model:
    """Logits from a row's inputs alone; notes the sizes it was called with."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def decode(self, batch: DecodeBatch) -> Tensor:
        self.sizes.append(batch.token_ids.shape[0])
        tables = batch.block_tables.sum(1)
        return torch.stack((batch.token_ids + batch.positions, batch.slots + batch.context_lens, tables), 1)


def graphs(model: Model, sizes: list[int]) -> DecodeGraphs:
    made = DecodeGraphs(model.decode, ROWS, BLOCKS, VOCABULARY, torch.device("cpu"))
    made.capture(Rehearsal(), sizes, lambda: None)
    return made


def batch(size: int, blocks: int) -> DecodeBatch:
    row = torch.arange(size)
    return DecodeBatch(
        token_ids=row + 1,
        positions=row + 10,
        slots=row + 100,
        block_tables=torch.ones(size, blocks, dtype=torch.int32) * (row.int() + 1).unsqueeze(1),
        context_lens=row.int() + 11,
        live=size,
    )


def test_the_largest_size_is_captured_first() -> None:
    model = Model()

    made = graphs(model, [1, 4, 2])

    assert model.sizes[::2] == [4, 2, 1]
    assert made.sizes == [1, 2, 4]


def test_narrower_tables_leave_nothing_of_wider_ones() -> None:
    model = Model()
    made = graphs(model, [1, 2, 4])

    for size, blocks in ((4, 6), (2, 1), (4, 3), (1, 6)):
        expected = model.decode(batch(size, blocks)).float()
        assert torch.equal(made.replay(batch(size, blocks), size), expected)


def test_a_batch_may_be_padded_to_a_larger_size() -> None:
    model = Model()
    made = graphs(model, [2, 4])
    made.replay(batch(4, 6), 4)

    logits = made.replay(batch(1, 2), 4)

    assert torch.equal(logits[:1], model.decode(batch(1, 2)).float())
    assert not logits[1:].any()

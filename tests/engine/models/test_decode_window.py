"""A window holds what the pool holds, whatever rows come, go, move and grow."""

import random
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from baton.engine.batch import DecodeBatch
from baton.engine.models.decode_window import DecodeWindow, WindowStep
from baton.kernels.kv_rows import gqa_token_rows, write_rows

LAYERS, HEADS, BLOCK_TOKENS, WIDTH, BLOCKS = 2, 3, 4, 2, 4000


@dataclass(eq=False)
class Row:
    """A sequence: the tokens in the pool and their blocks."""

    tokens: int
    blocks: list[int] = field(default_factory=list)


class Rig:
    """A pool of keys and values, a window over it, and the rows of the last step."""

    def __init__(self, blocks: int = BLOCKS) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.pool = self.random(blocks, LAYERS, 2, HEADS, BLOCK_TOKENS, WIDTH)
        self.window = DecodeWindow(planes=2, heads=HEADS)
        self.free = list(range(1, blocks))
        self.last: list[Row] = []

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def row(self, tokens: int) -> Row:
        row = Row(tokens)
        self._grow(row)
        return row

    def step(self, rows: list[Row], *, known: bool = True) -> WindowStep | None:
        """Let every row compute one token, as the layers of a model would."""
        [held] = self.step_in_parts(rows, [range(len(rows))], known=known)
        return held

    def step_in_parts(
        self, rows: list[Row], parts: list[range], *, known: bool = True
    ) -> list[WindowStep | None]:
        """Do the same part by part; each has written its tokens before the next looks at the window."""
        for row in rows:
            row.tokens += 1
            self._grow(row)
        batch = self._batch(rows, known)
        steps = []
        for part in parts:
            held = self.window.step(batch, [row.tokens for row in rows], self.pool, part)
            slots = batch.slots[part.start : part.stop]
            for layer, places in enumerate(gqa_token_rows(slots, LAYERS, HEADS, BLOCK_TOKENS)):
                values = self.random(len(part) * 2 * HEADS, WIDTH)
                write_rows(self.pool, places, values)
                if held is not None:
                    held.write(layer, values)
            steps.append(held)
        self.last = rows
        return steps

    def _batch(self, rows: list[Row], known: bool) -> DecodeBatch:
        positions = [row.tokens - 1 for row in rows]
        slots = [
            row.blocks[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
            for row, position in zip(rows, positions, strict=True)
        ]
        tables = torch.zeros(len(rows), 64, dtype=torch.int32)
        for place, row in enumerate(rows):
            tables[place, : len(row.blocks)] = torch.tensor(row.blocks)
        continued = [place < len(self.last) and self.last[place] is row for place, row in enumerate(rows)]
        return DecodeBatch(
            token_ids=torch.zeros(len(rows), dtype=torch.int64),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            block_tables=tables,
            context_lens=torch.tensor(positions, dtype=torch.int32) + 1,
            live=len(rows),
            continued=continued if known else None,
        )

    def _grow(self, row: Row) -> None:
        while len(row.blocks) * BLOCK_TOKENS < row.tokens:
            row.blocks.append(self.free.pop())

    def assert_holds(self, held: WindowStep | None, rows: list[Row]) -> None:
        """The window's rows are those of the pool, in every layer."""
        assert held is not None
        for layer in range(LAYERS):
            copies = held.read(layer).unflatten(1, (len(rows), HEADS))
            for place, row in enumerate(rows):
                cached = self.pool[row.blocks, layer].permute(1, 2, 0, 3, 4).flatten(2, 3)
                assert torch.equal(copies[:, place, :, : row.tokens], cached[:, :, : row.tokens])


def test_rows_that_come_go_move_and_grow_hold_what_the_pool_holds() -> None:
    rig, dice = Rig(), random.Random(2)
    rows = [rig.row(dice.randrange(1, 40)) for _ in range(3)]
    for _ in range(120):
        if rows and dice.random() < 0.2:
            leaving = rows.pop()
            if rows:
                rows[dice.randrange(len(rows))] = leaving
        while len(rows) < 12 and dice.random() < 0.3:
            rows.append(rig.row(dice.randrange(1, 40)))
        if rows:
            rig.assert_holds(rig.step(list(rows)), rows)


def test_halves_of_a_step_hold_what_the_pool_holds_wherever_it_is_cut() -> None:
    rig, dice = Rig(), random.Random(3)
    rows = [rig.row(dice.randrange(1, 40)) for _ in range(4)]
    for _ in range(120):
        if len(rows) > 2 and dice.random() < 0.2:
            leaving = rows.pop()
            rows[dice.randrange(len(rows))] = leaving
        while len(rows) < 12 and dice.random() < 0.3:
            rows.append(rig.row(dice.randrange(1, 40)))
        middle = dice.randrange(len(rows) + 1) if dice.random() < 0.3 else (len(rows) + 1) // 2
        parts = [part for part in (range(middle), range(middle, len(rows))) if part]
        held = rig.step_in_parts(list(rows), parts)
        for part, step in zip(parts, held, strict=True):
            rig.assert_holds(step, rows[part.start : part.stop])


def test_a_row_that_went_on_is_not_read_from_the_pool_again_in_halves() -> None:
    rig = Rig()
    rows = [rig.row(5) for _ in range(4)]
    rig.step(rows)
    rig.pool.zero_()

    first, second = rig.step_in_parts(rows, [range(2), range(2, 4)])

    assert first is not None
    assert second is not None
    for held in (first, second):
        assert all(bool(held.read(layer)[:, :, :5].any(-1).all()) for layer in range(LAYERS))


def test_a_longer_row_than_the_window_is_taken_in_with_all_others() -> None:
    rig = Rig()
    rows = [rig.row(120), rig.row(3)]

    for _ in range(20):
        held = rig.step(rows)

    rig.assert_holds(held, rows)


@pytest.mark.parametrize("interruption", ["unknown", "given up"])
def test_after_a_step_without_it_the_window_is_filled_anew(interruption: str) -> None:
    rig = Rig()
    rows = [rig.row(5), rig.row(9)]
    rig.step(rows)

    if interruption == "unknown":
        assert rig.step(rows, known=False) is None
    else:
        rig.step(rows)
        rig.window.give_up()

    rig.assert_holds(rig.step(rows), rows)


def test_a_window_that_would_take_more_than_half_of_the_pool_is_none() -> None:
    rig = Rig(blocks=30)

    assert rig.step([rig.row(50)]) is None


def test_nothing_of_a_sequence_that_left_stays_beside_its_successor() -> None:
    rig = Rig()
    broken, short, long = rig.row(40), rig.row(3), rig.row(50)
    rig.pool[broken.blocks] = float("nan")
    rig.step([broken, long])

    held = rig.step([short, long])

    assert held is not None
    assert all(held.read(layer).isfinite().all() for layer in range(LAYERS))

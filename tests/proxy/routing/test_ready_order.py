"""The order stays that of the column, whatever moves."""

import random

from baton.proxy.routing.ready_order import ReadyOrder

ROWS = (5, 2, 9, 4)


def test_the_order_follows_every_change_and_knows_nothing_of_other_rows() -> None:
    lot = random.Random(1)
    column = [float(lot.randrange(5)) for _ in range(10)]
    order = ReadyOrder(ROWS, column)
    for _ in range(200):
        row = lot.randrange(10)
        column[row] = float(lot.randrange(5))
        order.moved(row, column[row])

        assert order.first(4) == sorted(range(4), key=lambda place: (column[ROWS[place]], place))

    assert order.first(2) == order.first(4)[:2]

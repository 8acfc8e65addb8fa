"""What ranks send through the slow network arrives as the collectives say, and not before its time."""

import time
from typing import Any, cast

import msgspec
import torch

from baton.bench.ep.slow_network import SLOTS, Medium, SlowCollectives

DELAY_S = 0.02


class Group(msgspec.Struct, frozen=True):
    """As much of a process group as says who one is."""

    number: int
    ranks: int

    def rank(self) -> int:
        return self.number

    def size(self) -> int:
        return self.ranks


def network(ranks: int) -> list[SlowCollectives]:
    medium = Medium.of(ranks)
    return [SlowCollectives(cast(Any, Group(rank, ranks)), medium) for rank in range(ranks)]


def test_every_rank_gets_its_share_of_all_rows() -> None:
    ranks = network(3)
    rows = [torch.randn(6, 4) for _ in ranks]

    for _ in range(SLOTS + 1):
        arriving = [each.all_to_all(own) for each, own in zip(ranks, rows, strict=True)]
        for rank, receive in enumerate(arriving):
            assert torch.equal(receive(), torch.cat([own[2 * rank : 2 * rank + 2] for own in rows]))


def test_gathered_rows_lie_in_the_order_of_ranks() -> None:
    rows = [torch.arange(6, dtype=torch.int32).view(2, 3) + 10 * rank for rank in range(2)]
    arriving = [each.all_gather(own) for each, own in zip(network(2), rows, strict=True)]

    assert all(torch.equal(receive(), torch.cat(rows)) for receive in arriving)


def test_shares_are_added_up() -> None:
    rows = [torch.randn(4, 3) for _ in range(2)]
    arriving = [each.reduce_scatter(own) for each, own in zip(network(2), rows, strict=True)]

    assert torch.equal(torch.cat([receive() for receive in arriving]), rows[0] + rows[1])


def test_rows_arrive_a_delay_after_the_last_was_sent() -> None:
    first, last = network(2)
    first.delay_s = last.delay_s = DELAY_S
    receive = first.all_gather(torch.zeros(1))
    before = time.monotonic()
    last.all_gather(torch.zeros(1))

    receive()

    assert time.monotonic() - before >= DELAY_S

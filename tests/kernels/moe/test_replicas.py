"""Tokens reach a slot of their expert, replicas get about equal shares, and padding is not counted."""

import torch

from baton.kernels.moe.replicas import ReplicaTable

CPU = torch.device("cpu")


def test_every_slot_chosen_holds_the_expert() -> None:
    table = ReplicaTable(4, 6, offset=3, device=CPU)
    table.assign([2, 0, 1, 2, 3, 2])
    ids = torch.randint(0, 4, (200, 2), generator=torch.Generator().manual_seed(0))

    slots = table.slots_of(ids)

    assert torch.equal(torch.tensor(table.experts_of_slot)[slots], ids)


def test_replicas_share_their_experts_tokens() -> None:
    table = ReplicaTable(2, 4, offset=0, device=CPU)
    table.assign([0, 1, 0, 0])

    shares = table.slots_of(torch.zeros(3000, 1, dtype=torch.int64)).flatten().bincount(minlength=4)

    assert shares[1] == 0
    assert all(900 < int(shares[slot]) < 1100 for slot in (0, 2, 3))


def test_padding_goes_nowhere_and_is_not_counted() -> None:
    table = ReplicaTable(2, 2, offset=0, device=CPU)

    assert table.slots_of(torch.tensor([[0, -1], [-1, 1]])).tolist() == [[0, -1], [-1, 1]]
    assert table.load.tolist() == [1, 1]

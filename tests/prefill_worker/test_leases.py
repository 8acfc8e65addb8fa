"""The lease table forgets nothing and gives everything back exactly once."""

import pytest

from baton.prefill_worker.leases import HeldBlocks, LeaseTable


def test_blocks_come_back_once() -> None:
    leases = LeaseTable()
    leases.hold(HeldBlocks("a", "x", [1, 2]))
    leases.hold(HeldBlocks("b", "x", [2, 3]))

    assert leases.of("x") == ["a", "b"]
    assert leases.holders() == [[1, 2], [2, 3]]
    assert leases.end("a") == [1, 2]
    assert len(leases) == 1
    with pytest.raises(KeyError):
        leases.end("a")


def test_a_lease_id_is_used_once_at_a_time() -> None:
    leases = LeaseTable()
    leases.hold(HeldBlocks("a", "x", [1]))

    with pytest.raises(AssertionError, match="lease a exists"):
        leases.hold(HeldBlocks("a", "y", [2]))

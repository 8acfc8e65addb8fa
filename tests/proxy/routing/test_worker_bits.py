"""A bit means one worker for as long as any set may hold it."""

from baton.proxy.routing.worker_bits import WorkerBits


def test_sets_name_their_workers_whether_few_or_many() -> None:
    bits = WorkerBits()
    claimed = {f"w{number}": bits.claim(f"w{number}") for number in range(300)}
    some = [f"w{number}" for number in range(0, 300, 3)]

    assert list(bits.names(claimed["w299"] | claimed["w7"])) == ["w7", "w299"]
    assert list(bits.names(sum(claimed[name] for name in some))) == some
    assert list(bits.names(bits.live)) == list(claimed)
    assert list(bits.names(0)) == []


def test_a_worker_keeps_its_bit_until_it_is_retired() -> None:
    bits = WorkerBits()
    first = bits.claim("a")

    assert bits.claim("a") == bits.get("a") == first
    bits.retire("a", turn=0)
    assert bits.get("a") == bits.live == 0
    assert bits.claim("a") != first


def test_a_retired_bit_is_given_again_only_after_its_turn() -> None:
    bits = WorkerBits()
    first = bits.claim("a")
    bits.retire("a", turn=5)

    bits.recycle(turn=5)
    assert bits.claim("b") != first
    bits.recycle(turn=6)
    assert bits.claim("c") == first
    assert list(bits.names(first)) == ["c"]
    assert bits.slots == 2

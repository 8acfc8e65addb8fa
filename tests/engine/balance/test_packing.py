"""Placements even skewed loads out, keep every expert, and move no more than they must."""

import numpy as np
import pytest

from baton.engine.balance.packing import (
    Cluster,
    balancedness,
    keep_in_place,
    pack,
    place,
    rank_loads,
    replicate,
)


def skewed(experts: int, hot: int, factor: float, seed: int = 0) -> np.ndarray:
    """Loads around 100, `hot` of them `factor` times as large."""
    generator = np.random.default_rng(seed)
    loads = generator.uniform(80, 120, experts)
    loads[generator.permutation(experts)[:hot]] *= factor
    return loads


def test_packs_have_equal_counts_and_nearly_equal_weights() -> None:
    packed = pack(np.array([9.0, 1.0, 8.0, 2.0, 5.0, 5.0]), 3)

    assert sorted(map(sorted, packed)) == [[0, 1], [2, 3], [4, 5]]


def test_spare_slots_go_to_whoever_has_most_load_for_its_replicas() -> None:
    assert replicate(np.array([10.0, 100.0, 45.0]), 6) == [0, 1, 2, 1, 1, 2]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("experts", "cluster"),
    [
        (64, Cluster(slots=72, ranks=4)),
        (256, Cluster(slots=288, ranks=32, nodes=4, groups=8)),
        (256, Cluster(slots=288, ranks=32, nodes=3 + 1, groups=1)),
    ],
)
def test_a_skew_of_eight_to_one_is_evened_out(experts: int, cluster: Cluster, seed: int) -> None:
    loads = skewed(experts, experts // 16, 8.0, seed)

    slots = place(loads, cluster)

    before = balancedness(loads, [s % experts for s in range(cluster.slots)], cluster.ranks)
    after = balancedness(loads, slots, cluster.ranks)
    assert set(slots) == set(range(experts))
    assert len(slots) == cluster.slots
    assert after > before
    assert 1 / after <= 1.15


def test_experts_of_a_group_stay_on_one_node() -> None:
    cluster = Cluster(slots=32, ranks=4, nodes=2, groups=4)
    slots = place(skewed(16, 2, 8.0), cluster)

    nodes = [{expert // 4 for expert in slots[start : start + 16]} for start in (0, 16)]
    assert not nodes[0] & nodes[1]


def test_loads_of_replicas_are_shared() -> None:
    assert rank_loads(np.array([6.0, 2.0]), [0, 0, 1, 0], 2).tolist() == [4.0, 4.0]


def test_nothing_asked_for_is_even() -> None:
    assert balancedness(np.zeros(2), [0, 1], 2) == 1.0


def test_experts_that_stay_on_a_rank_stay_in_their_slot() -> None:
    assert keep_in_place([3, 1, 4, 0, 2, 2], [0, 1, 2, 2, 3, 4], 2) == [3, 1, 4, 2, 0, 2]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"slots": 10, "ranks": 4}, "10 expert slots cannot be shared out evenly to 4 ranks"),
        ({"slots": 12, "ranks": 4, "nodes": 3}, "4 ranks cannot be shared out evenly to 3 nodes"),
    ],
)
def test_a_cluster_that_cannot_be_even_is_refused(shape: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(**shape)

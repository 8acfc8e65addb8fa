"""Placing experts: replicate the busiest, pack replicas so that no rank has much more to do than another.

The method is the one DeepSeek published for V3 (github.com/deepseek-ai/EPLB): where routing is limited to
groups of experts, whole groups are packed onto nodes first, so that a token crosses few node boundaries; then
experts are replicated within each node and packed onto its ranks. Without groups, one node holds them all.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Loads = npt.NDArray[np.float64]
"""Tokens by expert, one layer."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Where experts can go."""

    slots: int
    """Slots of all ranks together."""
    ranks: int
    nodes: int = 1
    groups: int = 1
    """Groups of experts that routing is limited to; neighbours by number."""

    def __post_init__(self) -> None:
        """Refuse what cannot be shared out evenly."""
        if self.ranks % self.nodes:
            raise ValueError(f"{self.ranks} ranks cannot be shared out evenly to {self.nodes} nodes")
        if self.slots % self.ranks:
            raise ValueError(f"{self.slots} expert slots cannot be shared out evenly to {self.ranks} ranks")


def pack(weights: Loads, packs: int) -> list[list[int]]:
    """Share items out to packs of equal count and similar weight: heaviest first, to the lightest pack."""
    capacity = len(weights) // packs
    assert capacity * packs == len(weights), "items cannot be shared out evenly"
    packed: list[list[int]] = [[] for _ in range(packs)]
    totals = [0.0] * packs
    for item in np.argsort(-weights, kind="stable").tolist():
        open_packs = [index for index in range(packs) if len(packed[index]) < capacity]
        lightest = min(open_packs, key=totals.__getitem__)
        packed[lightest].append(item)
        totals[lightest] += float(weights[item])
    return packed


def replicate(loads: Loads, slots: int) -> list[int]:
    """Give every expert a slot and each further slot to whoever has most load for its replicas.

    returns  the expert of each slot, `slots` long
    """
    assert slots >= len(loads), "every expert needs a slot"
    counts = np.ones(len(loads))
    experts = list(range(len(loads)))
    for _ in range(slots - len(loads)):
        busiest = int(np.argmax(loads / counts))
        experts.append(busiest)
        counts[busiest] += 1
    return experts


def place(loads: Loads, cluster: Cluster) -> list[int]:
    """Return the expert of each slot of one layer; a rank's slots are neighbours, ranks in order."""
    is_grouped = cluster.groups % cluster.nodes == 0 and len(loads) % cluster.groups == 0
    nodes, groups = (cluster.nodes, cluster.groups) if is_grouped else (1, 1)
    members = np.arange(len(loads)).reshape(groups, -1)
    by_node = pack(loads.reshape(groups, -1).sum(1), nodes)
    slots: list[int] = []
    for own_groups in by_node:
        experts = np.concatenate([members[group] for group in own_groups])
        slots += _place_on_node(loads, experts, cluster.slots // nodes, cluster.ranks // nodes)
    return slots


def keep_in_place(new: Sequence[int], old: Sequence[int], ranks: int) -> list[int]:
    """Reorder the slots of each rank so that experts that stay on it stay where they are."""
    share = len(new) // ranks
    kept: list[int] = []
    for start in range(0, len(new), share):
        before, after = old[start : start + share], list(new[start : start + share])
        placed: list[int | None] = []
        for expert in before:
            stays = expert in after
            placed.append(expert if stays else None)
            if stays:
                after.remove(expert)
        kept += [expert if expert is not None else after.pop(0) for expert in placed]
    return kept


def rank_loads(loads: Loads, experts_of_slot: Sequence[int], ranks: int) -> Loads:
    """Return each rank's load when replicas share their expert's evenly."""
    counts = np.bincount(experts_of_slot, minlength=len(loads))
    of_slot = loads[list(experts_of_slot)] / counts[list(experts_of_slot)]
    return np.asarray(of_slot.reshape(ranks, -1).sum(1), dtype=np.float64)


def balancedness(loads: Loads, experts_of_slot: Sequence[int], ranks: int) -> float:
    """Return the evenness of the ranks' loads when replicas share their expert's evenly."""
    return evenness(rank_loads(loads, experts_of_slot, ranks))


def evenness(by_rank: Loads) -> float:
    """Return mean over maximum: 1 is even; without load it is."""
    return float(by_rank.mean() / by_rank.max()) if by_rank.max() > 0 else 1.0


def _place_on_node(loads: Loads, experts: npt.NDArray[np.int64], slots: int, ranks: int) -> list[int]:
    replicas = [int(experts[index]) for index in replicate(loads[experts], slots)]
    counts = np.bincount(replicas, minlength=len(loads))
    shares = loads[replicas] / counts[replicas]
    return [replicas[item] for packed in pack(shares, ranks) for item in packed]

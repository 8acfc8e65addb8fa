"""Sizes that are captured are those that steps have."""

import pytest

from baton.engine.config import GraphsConfig, MoeBackendName, RanksConfig, Role, WorkerConfig
from baton.engine.graphs.start import batch_sizes, has_graphs, prompt_sizes


@pytest.mark.parametrize(
    ("configured", "buckets", "captured"),
    [
        (None, [1, 2, 4, 8], [1, 2, 4, 8]),
        (None, [256, 512, 768], [256, 512]),
        (None, [], []),
        ([], [1, 2], []),
        ([4, 1, 4], [1, 2, 4], [1, 4]),
        ([3], [], [3]),
    ],
)
def test_decode_batches(configured: list[int] | None, buckets: list[int], captured: list[int]) -> None:
    assert batch_sizes(GraphsConfig(batch_sizes=configured), buckets) == captured


def test_a_size_that_no_batch_is_padded_to_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"graphs\.batch_sizes: \[3, 5\] are not among bucket_sizes \[1, 4\]"
    ):
        batch_sizes(GraphsConfig(batch_sizes=[1, 5, 3]), [1, 4])


@pytest.mark.parametrize(
    ("configured", "role", "most", "captured"),
    [
        (None, Role.PREFILL, 2048, [64, 128, 256, 512]),
        (None, Role.PREFILL, 200, [64, 128]),
        (None, Role.DECODE, 2048, []),
        ([], Role.PREFILL, 2048, []),
        ([32, 16], Role.DECODE, 8, [16, 32]),
    ],
)
def test_prompt_chunks(configured: list[int] | None, role: Role, most: int, captured: list[int]) -> None:
    assert prompt_sizes(GraphsConfig(prompt_sizes=configured), role, most) == captured


def worker(device: str, ranks: MoeBackendName | None, *, rehearse: bool = False) -> WorkerConfig:
    place = None if ranks is None else RanksConfig(rank=0, size=2, port=1, moe_backend=ranks)
    graphs = GraphsConfig(rehearse=rehearse)
    return WorkerConfig(model="m", role=Role.DECODE, device=device, ranks=place, graphs=graphs)


def test_graphs_are_for_gpus_and_rehearsals_and_for_ranks_whose_transfers_have_fixed_shapes() -> None:
    assert has_graphs(worker("cuda", None))
    assert not has_graphs(worker("cpu", None))
    assert has_graphs(worker("cpu", None, rehearse=True))
    assert has_graphs(worker("cuda", MoeBackendName.DEEPEP_LOW_LATENCY))
    assert has_graphs(worker("cpu", MoeBackendName.ALL_TO_ALL, rehearse=True))
    assert not has_graphs(worker("cuda", MoeBackendName.DEEPEP_HIGH_THROUGHPUT))

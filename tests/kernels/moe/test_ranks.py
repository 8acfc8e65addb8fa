"""On several ranks every backend, in both formats, gives each token what one rank would have given it."""

import pytest
import torch

from support.moe_cases import Layer
from support.ranked_moe import layer_sums
from support.ranks import run_ranks


@pytest.mark.parametrize("in_torch", [True, False])
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_backend_gives_the_sums_of_a_single_rank(ranks: int, in_torch: bool) -> None:
    layer = Layer()
    tokens_of = [[5] * ranks, [1] * ranks, [3, 0, 7, 1][:ranks], [0] * ranks]

    results = run_ranks(ranks, layer_sums, layer, tokens_of, in_torch)

    assert len(results[0]) == 2 * len(tokens_of) + 2 * (len(tokens_of) - 1)
    for rank, sums in enumerate(results):
        for (name, case), actual in sums.items():
            expected = layer.answer(*layer.routing(tokens_of[case][rank], seed=100 * case + rank))
            torch.testing.assert_close(actual, expected, msg=lambda m, at=(name, case, rank): f"{at}: {m}")

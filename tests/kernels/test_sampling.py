"""Draws hit the right token at the edges of the distribution, and do not depend on how they are computed."""

import pytest
import torch
from torch import Tensor

from baton.kernels import sampling
from baton.kernels.sampling import WEIGHT_BITS, best_logprobs, draw, draw_filtered, token_weights

ALMOST_ONE = 1 - 2.0**-53
WHOLE = 1 << WEIGHT_BITS


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_weights_are_the_softmax_in_fixed_point() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 4
    temperature = f64(0.5, 1.0, 2.0, 1e-4)

    weights = token_weights(logits, temperature, None)

    expected = (logits.double() / temperature[:, None]).softmax(-1)
    torch.testing.assert_close(weights.double() / weights.sum(-1, keepdim=True), expected, atol=1e-6, rtol=0)
    assert weights.amax(-1).tolist() == [WHOLE] * 4


def test_min_p_removes_what_is_less_likely_than_its_share_of_the_best() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.25, 0.05]]))

    assert (token_weights(logits, f64(1.0), f64(0.45)) > 0).tolist() == [[True, False, True, False]]


def test_the_lowest_number_draws_the_first_possible_token_and_the_highest_the_last() -> None:
    weights = torch.tensor([[0, 0, 5, 0, 7, 0]]).expand(2, 6)

    assert draw(weights, f64(0.0, ALMOST_ONE)).tolist() == [2, 4]


def test_a_token_is_drawn_for_its_share_of_the_numbers() -> None:
    weights = torch.tensor([[1, 0, 3]]).expand(4, 3)

    assert draw(weights, f64(0.0, 0.2499, 0.25, 0.99)).tolist() == [0, 0, 2, 2]


def test_large_flat_rows_stay_within_the_vocabulary() -> None:
    weights = torch.full((1, 300_000), WHOLE)

    assert draw(weights, f64(ALMOST_ONE)).tolist() == [299_999]
    assert (
        draw_filtered(weights, f64(ALMOST_ONE), torch.tensor([300_000]), f64(0.999999), largest_k=0) < 300_000
    )


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (4, 1.0, [1, 3, 2, 0]),
        (2, 1.0, [1, 3]),
        (4, 0.5, [1]),
        (4, 0.51, [1, 3]),
        (4, 0.9, [1, 3, 2]),
        (2, 0.7, [1, 3]),
        (3, 0.01, [1]),
    ],
)
def test_the_kept_tokens_are_the_likeliest_that_reach_top_p_of_the_top_k(
    top_k: int, top_p: float, kept: list[int]
) -> None:
    weights = torch.tensor([[1, 10, 4, 5]])
    numbers = torch.arange(200, dtype=torch.float64) / 200
    rows = weights.expand(len(numbers), 4)
    limits, shares = torch.full((len(numbers),), top_k), torch.full((len(numbers),), top_p).double()

    drawn = draw_filtered(rows, numbers, limits, shares, largest_k=top_k if top_k < 4 else 0)

    assert list(dict.fromkeys(drawn.tolist())) == kept


def test_equal_tokens_at_the_limit_are_kept_by_id() -> None:
    weights = torch.tensor([[1, 9, 9, 9, 9]]).expand(3, 5)
    numbers = f64(0.0, 0.5, ALMOST_ONE)

    assert draw_filtered(weights, numbers, torch.full((3,), 2), f64(1, 1, 1), largest_k=2).tolist() == [
        1,
        2,
        2,
    ]


def test_the_size_of_the_ranked_head_does_not_change_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vocab = 64, 3_000
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, vocab, generator=generator) * torch.linspace(0.01, 8, rows)[:, None]
    weights = token_weights(logits.round(decimals=1), torch.ones(rows).double(), None)
    numbers = torch.rand(rows, generator=generator, dtype=torch.float64)
    top_k = torch.where(torch.arange(rows) % 3 == 0, 50, vocab)
    top_p = torch.full((rows,), 0.9, dtype=torch.float64)

    drawn = []
    for head in (1, 60, 500, vocab):
        monkeypatch.setattr(sampling, "NUCLEUS_HEAD", head)
        drawn.append(draw_filtered(weights, numbers, top_k, top_p, largest_k=50).tolist())

    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]


def test_best_logprobs_are_ordered_by_value_then_id() -> None:
    row = torch.tensor([[-3.0, -0.5, -7.0, -0.5, float("-inf"), -0.0, 0.0]])

    ids, values = best_logprobs(row, 6)

    assert ids.tolist() == [[5, 6, 1, 3, 0, 2]]
    assert values.tolist() == [[0.0, 0.0, -0.5, -0.5, -3.0, -7.0]]

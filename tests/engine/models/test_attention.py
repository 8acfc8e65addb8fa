"""Sequences attend in groups of similar length, and the grouping changes no result."""

from functools import partial

import torch
from torch import Tensor

from baton.engine.models.attention import DecodeGroup, DecodeStep, group_by_length, length_mask


def test_a_long_context_does_not_pad_short_ones() -> None:
    assert group_by_length([50, 4000, 40, 1500, 2100]) == [[1, 4], [3], [0, 2]]


def test_short_contexts_stay_together() -> None:
    assert group_by_length([1, 250, 90]) == [[0, 1, 2]]


def test_every_row_is_in_one_group() -> None:
    lengths = [2**i for i in range(14)]

    rows = [row for group in group_by_length(lengths) for row in group]

    assert sorted(rows) == list(range(14))


def test_masks_hide_what_lies_past_each_end() -> None:
    mask = length_mask([1, 3, 2], torch.device("cpu"))

    assert mask is not None
    assert (mask.squeeze(1) == 0).tolist() == [[True, False, False], [True, True, True], [True, True, False]]


def test_equal_lengths_need_no_mask() -> None:
    assert length_mask([3, 3], torch.device("cpu")) is None


def test_groups_results_come_back_in_the_order_of_the_rows() -> None:
    empty = torch.empty(0, dtype=torch.int64)
    groups = [
        DecodeGroup(members=torch.tensor(rows), mask=None, read=partial(torch.full, (1, 2, 1, 1)))
        for rows in ([1, 3], [0, 2])
    ]
    step = DecodeStep(turns=empty, token_rows=[], groups=groups)

    def attend(q: Tensor, group: DecodeGroup) -> Tensor:
        return q + (100 if group is groups[0] else 10)

    result = step.attend(torch.arange(4.0).unsqueeze(1), attend)

    assert result.flatten().tolist() == [10, 101, 12, 103]

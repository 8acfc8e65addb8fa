"""A size that the ranks agreed on and nobody captured is computed, and named in the log."""

import logging
from typing import cast

import pytest
import torch

from baton.engine.batch import DecodeBatch
from baton.engine.graphs.rehearsal import Rehearsal
from baton.engine.ranks.phased_model import PhasedModel, SplitModel
from baton.engine.ranks.rebalance import Rebalancer
from baton.kernels.moe.backend import LocalMoe
from baton.kernels.moe.phases import PhasedMoe
from support.fake_model import CONFIG, VOCABULARY


class Blank:
    """Logits that are all zero, by work that a graph could hold."""

    config = CONFIG

    def decode(self, batch: DecodeBatch, kv: torch.Tensor) -> torch.Tensor:
        return batch.token_ids.float().unsqueeze(1).expand(-1, VOCABULARY) * 0.0


def rows(count: int) -> DecodeBatch:
    numbers = torch.zeros(count, dtype=torch.int64)
    tables = torch.zeros(count, 4, dtype=torch.int32)
    return DecodeBatch(numbers, numbers, numbers, tables, numbers.int(), live=count)


def test_the_log_hears_of_a_size_once(caplog: pytest.LogCaptureFixture) -> None:
    kv = torch.zeros(1)
    model = PhasedModel(
        cast("SplitModel", Blank()), PhasedMoe(LocalMoe(), LocalMoe()), cast("Rebalancer", None)
    )
    model.capture(Rehearsal(), kv, batch_sizes=[2], max_blocks=4, on_captured=lambda done, total: None)

    with caplog.at_level(logging.WARNING):
        for agreed in (2, 3, 3):
            model.decode_rows = agreed
            assert model.decode(rows(2), kv).shape == (2, VOCABULARY)

    [line] = caplog.messages
    assert line.startswith("decode batches of 3 rows are not captured")
